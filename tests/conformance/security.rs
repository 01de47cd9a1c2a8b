//! What the process may do in its machine: as Docker has it.

use capsid_tests::host;

/// CapBnd and CapEff of a container that asks for nothing (capabilities(7) numbers of moby's default list).
const DOCKER_DEFAULT: &str = "00000000a80425fb";

fn capability_sets(options: &[&str]) -> String {
    let script = "grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | awk '{print $2}' | tr '\\n' ' '; \
        grep NoNewPrivs /proc/self/status | awk '{print $2}'";
    host().shell(options, script).finish().expect_code(0).stdout_text()
}

#[test]
fn capabilities_are_dockers() {
    let none = "0000000000000000";
    let of_root = format!("{none} {DOCKER_DEFAULT} {DOCKER_DEFAULT} {DOCKER_DEFAULT} {none} 0\n");
    assert_eq!(capability_sets(&[]), of_root);
    let of_user = format!("{none} {none} {none} {DOCKER_DEFAULT} {none} 1\n");
    assert_eq!(capability_sets(&["-u", "1000", "--security-opt", "no-new-privileges"]), of_user);
    let one = "0000000000001000";
    let of_one = format!("{none} {one} {one} {one} {none} 0\n");
    assert_eq!(capability_sets(&["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"]), of_one);
    let all = "000001ffffffffff";
    assert_eq!(capability_sets(&["--privileged"]), format!("{none} {all} {all} {all} {none} 0\n"));
}

#[test]
fn kernel_interfaces_are_closed_unless_privileged() {
    let script = "head -c1 /proc/kcore | wc -c; ls /sys/firmware 2>/dev/null | wc -l; \
        (echo 1 >/proc/sys/kernel/panic) 2>/dev/null && echo open || echo closed; \
        (mkdir /sys/fs/cgroup/x) 2>/dev/null && echo open || echo closed; \
        (mount -t tmpfs none /mnt) 2>/dev/null && echo open || echo closed";
    host().shell(&[], script).finish().expect_code(0).expect_stdout("0\n0\nclosed\nclosed\nclosed\n");
    let open = "(echo 1 >/proc/sys/kernel/panic) && echo open; mkdir /sys/fs/cgroup/x && echo open; \
        mkdir -p /m && mount -t tmpfs none /m && echo open; test -b /dev/vda && echo open";
    host().shell(&["--privileged"], open).finish().expect_code(0).expect_stdout("open\nopen\nopen\nopen\n");
}

#[test]
fn nothing_of_the_host_or_of_the_agent_is_in_reach() {
    let script = "ls /proc/self/fd | wc -l; cat /proc/1/cmdline | tr '\\0' ' '; echo; ls -a / | grep -c -E 'init$|layers|capsid'; \
        cat /proc/self/mountinfo | grep -c erofs; ls /sys/class/net";
    let said = host().shell(&[], script).finish().expect_code(0).stdout_text();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[1].starts_with("sh -c"), "{said}");
    assert_eq!((lines[2], lines[3], &lines[4..]), ("0", "0", &["eth0", "lo"][..]), "{said}");
}

#[test]
fn a_working_folder_through_a_descriptor_reaches_nothing() {
    // CVE-2024-21626: a descriptor of the runtime's as working folder.
    for descriptor in 3..12 {
        let folder = format!("/proc/self/fd/{descriptor}");
        let said = host().shell(&["-w", &folder], "pwd; ls .. 2>/dev/null | head -3").finish();
        assert!(!said.stdout_text().contains("init"), "{}", said.story());
        if said.stdout_text().is_empty() {
            break;
        }
    }
}
