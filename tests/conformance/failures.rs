//! What a bad wish, a bad machine or a bad guest gets: one clear line, the right exit code, in bounded time.

use std::path::Path;
use std::process::Command;

use capsid_image::testing::{ArchiveWriter, Packing, TarWriter, TestEntry, entry};
use capsid_tests::{Finished, Home, host};

#[test]
fn a_missing_image_exits_125_and_is_named() {
    let missing = |name: &str, message: &str| {
        host().run(&[], &[name, "true"]).finish().expect_code(125).expect_stderr(message);
    };
    missing("no-such-image", "Unable to find image 'no-such-image:latest' locally");
    missing("No Such", "invalid reference format");
}

#[test]
fn a_wrong_flag_exits_125() {
    host().run(&["--no-such-flag"], &["busybox"]).finish().expect_code(125).expect_stderr("--no-such-flag");
}

#[test]
fn a_file_that_is_no_image_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("noise");
    std::fs::write(&file, vec![7; 100_000]).unwrap();
    let before = host().call().args(["images", "-q"]).finish().stdout_text();
    host().call().args(["load", "-i"]).arg(&file).finish().expect_code(1);
    host()
        .call()
        .args(["load", "-i", "/no/such/file"])
        .finish()
        .expect_code(1)
        .expect_stderr("/no/such/file");
    host().call().arg("load").stdin("").finish().expect_code(1);
    assert_eq!(host().call().args(["images", "-q"]).finish().stdout_text(), before);
}

/// Loads an image of one layer into a store of its own; the result and every file that is left in the store.
fn load_layer(entries: &[TestEntry], options: &[&str]) -> (Finished, Vec<String>) {
    let home = Home::new();
    let archive = home.folder().join("hostile.tar");
    let mut tar = TarWriter::new(Vec::new());
    entries.iter().for_each(|entry| tar.push(entry).unwrap());
    let mut writer = ArchiveWriter::create(&archive).unwrap();
    writer.layer(&tar.finish().unwrap(), Packing::Gzip).unwrap();
    writer.finish("hostile:latest").unwrap();
    let loaded = home.call(host()).args(["load", "-i"]).arg(&archive).args(options).finish();
    home.stop();
    (loaded, files_in(&home.state(), "+0"))
}

/// The files of that size in a state folder, but for those of a daemon that holds nothing.
fn files_in(state: &Path, size: &str) -> Vec<String> {
    let found = Command::new("find").arg(state).args(["-type", "f", "-size", size]).output().unwrap();
    let own = ["daemon.log", "version", "lock", "kvm-probe.json"];
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    found.lines().filter(|path| !own.iter().any(|own| path.ends_with(own))).map(str::to_owned).collect()
}

#[test]
fn hostile_layers_are_refused_by_the_entrys_name_and_leave_nothing() {
    let file = |path: &str| entry(b'0', path).content("x");
    let cases: Vec<(Vec<TestEntry>, &str)> = vec![
        (vec![file("a/../../evil")], "a/../../evil"),
        (vec![file("../evil")], "../evil"),
        (vec![entry(b'1', "hard").link("../../etc/shadow")], "hard"),
        (vec![entry(b'1', "later").link("not-there")], "later"),
        (vec![entry(b'2', "out").link("/etc"), file("out/passwd")], "out/passwd"),
        (vec![file(&"n".repeat(256))], "nnnn"),
        (vec![file(&"deep/".repeat(2000))], "deep/deep"),
        (vec![file("one"), file("two"), file("three")], "three"),
    ];
    for (index, (entries, name)) in cases.iter().enumerate() {
        let (loaded, left) = load_layer(entries, &["--limit", "max-entries=2"]);
        let said = loaded.expect_code(1).expect_stderr(name);
        assert_eq!(left, Vec::<String>::new(), "case {index}: {}", said.story());
    }
}

#[test]
fn more_entries_than_the_limit_are_refused_unless_it_is_raised() {
    let many: Vec<TestEntry> = (0..600_000).map(|index| entry(b'0', format!("f{index}"))).collect();
    let (refused, left) = load_layer(&many, &[]);
    refused.expect_code(1).expect_stderr("limit max-entries");
    assert_eq!(left, Vec::<String>::new());
    load_layer(&many, &["--limit", "max-entries=1000000"]).0.expect_code(0);
}

#[test]
fn missing_artifacts_are_named_with_what_to_do() {
    let empty = tempfile::tempdir().unwrap();
    let home = Home::new().with("CAPSID_GUEST_DIR", empty.path());
    let said = host().run_in(&home, &[], &["busybox", "true"]).finish().expect_code(125);
    said.expect_stderr("the capsid daemon did not start").expect_stderr("run 'make build'");
}

/// Runs a container on guests of a folder of artifacts.
fn run_on(guest: &Path, boot_timeout_s: &str) -> Finished {
    let home = Home::new().with("CAPSID_GUEST_DIR", guest).with("CAPSID_BOOT_TIMEOUT", boot_timeout_s);
    host().run_in(&home.with_busybox(host()), &[], &["busybox", "true"]).finish()
}

#[test]
fn a_kernel_that_is_none_is_refused() {
    let folder = host().guest_folder_with("vmlinux", Path::new("/etc/passwd"));
    let said = run_on(folder.path(), "20").expect_code(125);
    assert!(said.stderr().contains("kernel") || said.stderr().contains("ELF"), "{}", said.story());
}

#[test]
fn a_guest_that_panics_at_boot_shows_its_console() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("initramfs");
    std::fs::write(&archive, cpio(&[])).unwrap();
    let guest = host().guest_folder_with("initramfs.cpio", &archive);
    run_on(guest.path(), "60").expect_code(125).expect_stderr("the guest's kernel panicked: ");
}

#[test]
fn a_guest_whose_agent_never_rings_is_given_up_on() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("initramfs");
    // `busybox` under the name `init` wants an inittab; as `sh -c` it does what it is told.
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static");
    let script = b"#!/busybox sh\necho the agent is elsewhere >/dev/console\nexec /busybox sleep 1000\n";
    let archive_bytes =
        cpio(&[("init", 0o100_755, script), ("busybox", 0o100_755, &busybox), ("dev", 0o040_755, b"")]);
    std::fs::write(&archive, archive_bytes).unwrap();
    let guest = host().guest_folder_with("initramfs.cpio", &archive);
    run_on(guest.path(), "15").expect_code(125).expect_stderr("the guest did not come up within 15 s");
}

#[test]
fn a_guest_that_panics_under_a_container_ends_the_run_with_its_console() {
    // 2: the kernel panics even when it is only the container's memory that has run out (vm.panic_on_oom).
    let script = "echo 2 >/proc/sys/vm/panic_on_oom && tail /dev/zero";
    host()
        .shell(&["--privileged", "-m", "64m"], script)
        .finish()
        .expect_code(137)
        .expect_stderr("the guest's kernel panicked: Out of memory: compulsory panic_on_oom is enabled");
}

#[test]
fn kvm_that_cannot_be_used_says_exactly_why() {
    // As a user who may not open /dev/kvm; where it is missing or too slow, that is said instead.
    let home = Home::new();
    let owned = Command::new("chown").args(["-R", "65534:65534"]).arg(home.folder()).status().unwrap();
    assert!(owned.success(), "these tests run as root");
    let as_nobody = |call: Command| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"])
            .arg(call.get_program());
        command.args(call.get_args());
        for (name, value) in call.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.output().unwrap()
    };
    let archive = host().archive("busybox");
    let loaded = as_nobody(home.call(host()).args(["load", "-i"]).arg(archive).into_command());
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    let run = home.call(host()).args(["run", "--rm", "--engine", "kvm", "busybox", "true"]);
    let said = as_nobody(run.into_command());
    let stderr = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(125), "{stderr}");
    let reason = "KVM cannot be used here: ";
    let help = "Run 'capsid run --help' for more information";
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.is_empty()).collect();
    assert!(lines.len() == 2 && lines[0].contains(reason) && lines[1] == help, "{stderr}");
}

#[test]
fn no_emulator_says_what_to_install() {
    let home = Home::new().with("PATH", "/nowhere").with_busybox(host());
    let run = home.call(host()).args(["run", "--rm", "--engine", "emulated", "busybox", "true"]);
    run.finish().expect_code(125).expect_stderr("qemu-system-x86_64 is not in PATH: install it");
}

#[test]
fn a_full_disk_is_said_and_nothing_is_left() {
    let home = Home::new();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k,mode=700", "none"])
        .arg(home.state())
        .status()
        .unwrap();
    assert!(mounted.success(), "these tests run as root");
    let said = home.call(host()).args(["load", "-i"]).arg(host().archive("busybox")).finish();
    let left = files_in(&home.state(), "+4k");
    home.stop();
    let unmounted = Command::new("umount").arg(home.state()).status().unwrap();
    assert!(unmounted.success(), "nothing of ours holds it");
    said.expect_code(1).expect_stderr("No space left on device");
    assert_eq!(left, Vec::<String>::new());
}

/// A cpio archive (newc), as a kernel takes it.
fn cpio(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut add = |name: &str, mode: u32, content: &[u8]| {
        let length = |bytes: usize| u32::try_from(bytes).unwrap();
        let fields = [1, mode, 0, 0, 1, 0, length(content.len()), 0, 0, 0, 0, length(name.len() + 1), 0];
        archive.extend(b"070701");
        fields.iter().for_each(|field| archive.extend(format!("{field:08x}").bytes()));
        archive.extend(name.bytes().chain([0]));
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    };
    files.iter().for_each(|(name, mode, content)| add(name, *mode, content));
    add("TRAILER!!!", 0, b"");
    archive
}
