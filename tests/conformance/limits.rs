//! Memory, processors, processes, resource limits.

use capsid_tests::host;

#[test]
fn memory_and_processors_are_as_asked() {
    host()
        .shell(
            &["-m", "256m", "--cpus", "2"],
            "nproc; cat /sys/fs/cgroup/memory.max; cat /sys/fs/cgroup/cpu.max | cut -d' ' -f1",
        )
        .finish()
        .expect_code(0)
        .expect_stdout("2\n268435456\nmax\n");
}

#[test]
fn a_part_of_a_processor_is_a_quota() {
    host()
        .shell(
            &["--cpus", "0.5", "--pids-limit", "50"],
            "nproc; cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids.max",
        )
        .finish()
        .expect_code(0)
        .expect_stdout("1\n50000 100000\n50\n");
}

#[test]
fn a_process_that_takes_more_than_its_memory_is_killed_and_it_is_said() {
    // tail keeps a line without an end in memory.
    host()
        .run(&["-m", "64m"], &["busybox", "tail", "/dev/zero"])
        .finish()
        .expect_code(137)
        .expect_stderr("ran out of memory");
}

#[test]
fn all_of_a_memory_limit_can_be_used() {
    let script = "mount | grep -c 'on /big type tmpfs'; head -c 100m /dev/zero >/big/file && echo written";
    host()
        .shell(&["-m", "128m", "--tmpfs", "/big:size=120m"], script)
        .finish()
        .expect_code(0)
        .expect_stdout("1\nwritten\n");
}

#[test]
fn resource_limits_are_set() {
    host()
        .shell(&["--ulimit", "nofile=321:654", "--ulimit", "core=0"], "ulimit -Sn; ulimit -Hn; ulimit -c")
        .finish()
        .expect_code(0)
        .expect_stdout("321\n654\n0\n");
}

#[test]
fn limits_that_cannot_be_had_are_refused() {
    host()
        .run(&["-m", "1m"], &["busybox", "true"])
        .finish()
        .expect_code(125)
        .expect_stderr("Minimum memory limit");
    host()
        .run(&["--cpus", "99"], &["busybox", "true"])
        .finish()
        .expect_code(125)
        .expect_stderr("range of CPUs");
    host().run(&["--ulimit", "nofile=2:1"], &["busybox", "true"]).finish().expect_code(125);
}
