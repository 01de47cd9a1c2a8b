//! The root file system: layers, the writable layer, mounts, devices.

use capsid_tests::host;

#[test]
fn a_containers_changes_are_its_own() {
    let script =
        "test ! -e /new && echo x >/new && rm /etc/passwd && ls /new && test ! -e /etc/passwd && echo gone";
    for _ in 0..2 {
        host().shell(&[], script).finish().expect_code(0).expect_stdout("/new\ngone\n");
    }
}

#[test]
fn a_read_only_root_stays_as_it_is_but_for_its_tmpfs() {
    host()
        .shell(
            &["--read-only", "--tmpfs", "/scratch"],
            "touch /x; touch /scratch/y && ls /scratch; touch /dev/shm/z && echo shm",
        )
        .finish()
        .expect_code(0)
        .expect_stdout("y\nshm\n")
        .expect_stderr("Read-only file system");
}

#[test]
fn a_tmpfs_has_the_options_that_were_asked_for() {
    let script = "stat -c %a /one /two; df -k /two | tail -1 | awk '{print $2}'; grep -c ' /one tmpfs .*noexec' /proc/mounts";
    host()
        .shell(&["--tmpfs", "/one", "--tmpfs", "/two:size=4m,mode=700"], script)
        .finish()
        .expect_code(0)
        .expect_stdout("1777\n700\n4096\n1\n");
}

#[test]
fn the_devices_are_those_of_a_container() {
    let script = "cd /dev; for d in null zero full random urandom tty; do test -c $d || echo no $d; done; \
        test -L ptmx && test -L fd && test -L stdin && test -d pts && test -d shm && test -d mqueue && echo all; \
        ls -d vd* sd* kmsg mem 2>/dev/null; df -k /dev/shm | tail -1 | awk '{print $2}'";
    host().shell(&["--shm-size", "8m"], script).finish().expect_code(0).expect_stdout("all\n8192\n");
}

#[test]
fn deleted_space_returns_to_the_host() {
    // The writable layer is a sparse file: what is deleted is discarded, so writing it again fits the same space.
    let script = "for n in 1 2 3; do head -c 20m /dev/zero | tr '\\0' x >/big || exit 1; rm /big; sync; done; echo fits";
    host().shell(&[], script).finish().expect_code(0).expect_stdout("fits\n");
}

#[test]
fn the_writable_layer_has_room_and_the_common_features() {
    let script = "df -k / | tail -1 | awk '{print ($2 > 4000000)}'; ln -s a b; mkfifo f; mknod n c 1 3; chmod 4755 f; \
        stat -c %a f; touch -d '1999-01-02 03:04:05' t; stat -c %Y t; mkdir d; mv d e; ls -d e";
    host().shell(&["-w", "/root"], script).finish().expect_code(0).expect_stdout("1\n4755\n915246245\ne\n");
}
