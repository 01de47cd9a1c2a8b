//! What a container reaches, and what it must not.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use capsid_api::client::Client;
use capsid_tests::outside::{
    self, Count, HOST_IPV4, HOST_IPV6, answer_dns, answer_http, serve_tcp, serve_udp,
};
use capsid_tests::{Daemon, Home, host};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use crate::daemon::{await_log, create, inspect, run, status};

/// How long anything may take that takes moments.
const PATIENCE: Duration = Duration::from_secs(60);

fn http_on(address: IpAddr) -> (SocketAddr, Count) {
    serve_tcp(address, move |connection| answer_http(connection, format!("this is {address}\n").as_bytes()))
}

#[test]
fn servers_are_reached_over_ipv4_and_ipv6_by_address_and_by_name() {
    if !outside::enter() {
        return;
    }
    let home = Home::new().with_busybox(host());
    let ((ipv4, _), (ipv6, _)) = (http_on(HOST_IPV4), http_on(HOST_IPV6));
    let (_, asked) = serve_udp(SocketAddr::new(HOST_IPV4, 53), answer_dns);
    let (_, asked_ipv6) = serve_udp(SocketAddr::new(HOST_IPV6, 53), answer_dns);
    let script = format!(
        "wget -q -O - http://{ipv4}/ && wget -q -O - http://{ipv6}/ && wget -q -O - http://some.name:{}/ && \
         nslookup -type=a other.name {HOST_IPV6} | tail -n 2 | head -n 1",
        ipv4.port()
    );
    let done = host().shell_in(&home, &["--dns", &HOST_IPV4.to_string()], &script).finish().expect_code(0);
    done.expect_stdout("this is 192.0.2.9\nthis is fd00:1::9\nthis is 192.0.2.9\nAddress: 192.0.2.9\n");
    assert!(asked.get() > 0 && asked_ipv6.get() > 0);
}

#[test]
fn a_connection_that_nobody_takes_is_refused_at_once() {
    if !outside::enter() {
        return;
    }
    let home = Home::new().with_busybox(host());
    let script = format!("for host in {HOST_IPV4} {HOST_IPV6}; do nc $host 9 </dev/null; done 2>&1");
    let begun = Instant::now();
    let done = host().shell_in(&home, &[], &script).finish().expect_code(1).stdout_text();
    assert_eq!(done.matches("Connection refused").count(), 2, "{done}");
    assert!(begun.elapsed() < PATIENCE);
}

#[test]
fn what_listens_on_the_hosts_loopback_is_out_of_reach() {
    if !outside::enter() {
        return;
    }
    let home = Home::new().with_busybox(host());
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let servers = loopback.map(http_on);
    let resolvers = loopback.map(|address| serve_udp(SocketAddr::new(address, 0), <[u8]>::to_vec));
    // By every address that there is: the gateways, the guest's own, the resolver's, and all names of the loopback.
    let addresses = "10.87.0.1 10.87.0.2 10.87.0.3 127.0.0.1 127.0.0.53 0.0.0.0 fd63:6170:7369:6400::1 ::1 :: \
                     ::ffff:127.0.0.1 fe80::1%eth0";
    let ports: Vec<String> = servers.iter().map(|(place, _)| place.port().to_string()).collect();
    let datagram_ports: Vec<String> = resolvers.iter().map(|(place, _)| place.port().to_string()).collect();
    let script = format!(
        "for address in {addresses}; do \
            for port in {}; do (timeout 5 nc -w 2 $address $port </dev/null && echo $address $port) & done; \
            for port in {}; do echo x | timeout 5 nc -u -w 2 $address $port & done; \
         done 2>/dev/null; wait; echo done",
        ports.join(" "),
        datagram_ports.join(" ")
    );
    host().shell_in(&home, &[], &script).finish().expect_code(0).expect_stdout("done\n");
    let counts = servers.iter().chain(&resolvers).map(|(place, count)| (place, count.get()));
    let reached: Vec<_> = counts.filter(|(_, count)| *count > 0).collect();
    assert!(reached.is_empty(), "{reached:?}");
}

/// Frames that no kernel would send, by a process that may: to the host's loopback by each of its names, from the card's
/// address and from another, to the gateway's address and to everybody's.
const CRAFTED: &str = include_str!("guest/frames.py");

#[test]
fn crafted_frames_do_not_reach_the_hosts_loopback() {
    if !outside::enter() {
        return;
    }
    let home = Home::new().with_python(host());
    let echo = <[u8]>::to_vec;
    let (place4, count4) = serve_udp(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0), echo);
    let (place6, count6) = serve_udp(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0), echo);
    let (open, reached) = serve_udp(SocketAddr::new(HOST_IPV4, 0), echo);
    let ports = [place4, place6, open].map(|place| place.port().to_string());
    let options = ["--user", "0", "--entrypoint", "python3"];
    let call = host().run_in(&home, &options, &["python", "-c", CRAFTED, &ports[0], &ports[1], &ports[2]]);
    call.finish().expect_code(0).expect_stdout("sent\n");
    await_count(&reached, 1);
    assert_eq!((count4.get(), count6.get()), (0, 0));
}

fn await_count(count: &Count, wanted: usize) {
    let deadline = Instant::now() + PATIENCE;
    while count.get() < wanted {
        assert!(Instant::now() < deadline, "{} instead of {wanted}", count.get());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn without_a_network_there_is_the_loopback_interface_and_nothing_else() {
    let script =
        "ls /sys/class/net; wc -l </proc/net/route; ip route; ping -c 1 -W 5 127.0.0.1 >/dev/null && echo up";
    let done = host().shell(&["--network", "none"], script).finish().expect_code(0);
    done.expect_stdout("lo\n1\nup\n");
}

#[test]
fn the_interface_and_its_files_are_as_docker_has_them() {
    if !outside::enter() {
        return;
    }
    let home = Home::new().with_busybox(host());
    let script = "cat /sys/class/net/eth0/operstate; ip -o -4 addr show eth0 | awk '{print $4}'; ip route | head -n 1; \
                  ping -c 1 -W 10 $(hostname) >/dev/null && echo named; tail -n 2 /etc/hosts; cat /etc/resolv.conf";
    let options =
        ["--hostname", "box", "--dns", "192.0.2.53", "--dns-search", "a.example", "--dns-option", "ndots:2"];
    host().shell_in(&home, &options, script).finish().expect_code(0).expect_stdout(
        "up\n10.87.0.2/24\ndefault via 10.87.0.1 dev eth0 \nnamed\n10.87.0.2\tbox\nfd63:6170:7369:6400::2\tbox\n\
         nameserver 192.0.2.53\nsearch a.example\noptions ndots:2\n",
    );
}

#[test]
fn a_resolver_on_the_hosts_loopback_serves_containers() {
    if !outside::enter() {
        return;
    }
    let home = Home::new().with_busybox(host());
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "nameserver 127.0.0.1\n").unwrap();
    fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    outside::replace("/etc/resolv.conf", file.path());
    let (_, asked) = serve_udp(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53), answer_dns);
    let (http, _) = http_on(HOST_IPV4);
    let script = format!("wget -q -O - http://some.name:{}/; cat /etc/resolv.conf", http.port());
    let done = host().shell_in(&home, &[], &script).finish().expect_code(0);
    done.expect_stdout("this is 192.0.2.9\nnameserver 10.87.0.3\n");
    assert!(asked.get() > 0);
}

/// Bytes of which every block differs, from a seed.
fn stream_of(length: usize) -> Vec<u8> {
    let words = (0_u64..).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23));
    words.flat_map(u64::to_le_bytes).take(length).collect()
}

#[test]
fn large_transfers_arrive_whole_in_both_directions() {
    const LENGTH: usize = 48 << 20;
    if !outside::enter() {
        return;
    }
    let home = Home::new().with_busybox(host());
    let bytes = stream_of(LENGTH);
    let digest = hex(&Sha256::digest(&bytes));
    let (source, _) = serve_tcp(HOST_IPV4, move |connection| answer_http(connection, &bytes));
    let (sink, _) = serve_tcp(HOST_IPV6, |mut connection| {
        let mut bytes = vec![0; LENGTH];
        let whole = connection.read_exact(&mut bytes).is_ok();
        let answer = format!("{} {whole}\n", hex(&Sha256::digest(bytes)));
        let _ = connection.write_all(answer.as_bytes());
        let _ = connection.read(&mut [0]);
    });
    // Not until nc ends: once a guest has closed its half of a connection, the passt of Debian 12 repeats what comes of
    // the other half, and does not tell its end. What nc sends comes before that, and the answer is one segment.
    let script = format!(
        "wget -q -O /file http://{source}/ && sha256sum </file; nc {} {} </file 2>/dev/null | head -n 1 >/answer & \
         until grep true /answer; do sleep 0.1; done",
        sink.ip(),
        sink.port()
    );
    host()
        .shell_in(&home, &[], &script)
        .finish()
        .expect_code(0)
        .expect_stdout(&format!("{digest}  -\n{digest} true\n"));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn many_connections_are_served() {
    if !outside::enter() {
        return;
    }
    let home = Home::new().with_busybox(host());
    let (http, count) = http_on(HOST_IPV4);
    let script = format!(
        "get() {{ for i in 1 2 3 4 5 6 7 8 9 10; do wget -q -O - http://{http}/ || echo failed; done; }}; \
         for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do get & done; wait"
    );
    let done = host().shell_in(&home, &[], &script).finish().expect_code(0);
    done.expect_stdout(&"this is 192.0.2.9\n".repeat(200));
    assert_eq!(count.get(), 200);
}

#[test]
fn without_passt_a_start_says_what_to_do_and_a_container_without_network_starts() {
    let folder = tempfile::tempdir().unwrap();
    let path = std::env::var_os("PATH").unwrap();
    let emulator =
        std::env::split_paths(&path).map(|at| at.join("qemu-system-x86_64")).find(|at| at.is_file());
    if let Some(emulator) = emulator {
        std::os::unix::fs::symlink(emulator, folder.path().join("qemu-system-x86_64")).unwrap();
    }
    let home = Home::new().with("PATH", folder.path()).with_busybox(host());
    let refused = host().shell_in(&home, &[], "true").finish().expect_code(125);
    refused.expect_stderr("Debian's package passt").expect_stderr("--network none");
    host().shell_in(&home, &["--network", "none"], "true").finish().expect_code(0);
}

#[test]
fn networks_that_there_are_not_are_refused() {
    for network in ["host", "container:other", "nosuch"] {
        host().shell(&["--network", network], "true").finish().expect_code(125).expect_stderr("network");
    }
    let refused = host().shell(&["--add-host", "h:host-gateway"], "true").finish().expect_code(125);
    refused.expect_stderr("unable to derive the IP value for host-gateway");
}

/// The process of passt that a container's record names.
fn passt_of(daemon: &Daemon, id: &str) -> i32 {
    let record = fs::read(daemon.state().join("containers").join(id).join("container.json")).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    let pid = record["state"]["machine"]["network"]["process"]["pid"].as_i64().expect("a process");
    i32::try_from(pid).unwrap()
}

fn is_passt(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("passt"))
}

async fn await_end_of_passt(pid: i32) {
    let deadline = Instant::now() + PATIENCE;
    while Path::new(&format!("/proc/{pid}")).exists() && is_passt(pid) {
        assert!(Instant::now() < deadline, "passt {pid} goes on");
        sleep(Duration::from_millis(20)).await;
    }
}

/// What the container gets of a server.
async fn fetch(client: &Client, http: SocketAddr) -> String {
    let command = format!("timeout 10 wget -q -O - http://{http}/ || echo none");
    let exec = json!({ "Cmd": ["sh", "-c", command], "AttachStdout": true, "Tty": true });
    let made = client.post("/containers/web/exec").json(&exec).send().await.unwrap();
    let id = made.json::<Value>().await.unwrap()["Id"].as_str().unwrap().to_owned();
    let started =
        client.post(format!("/exec/{id}/start")).json(&json!({ "Tty": true })).send().await.unwrap();
    String::from_utf8_lossy(&started.bytes().await.unwrap()).replace('\r', "")
}

#[tokio::test]
async fn a_network_lives_as_long_as_its_machine_whatever_becomes_of_the_daemon() {
    if !outside::enter() {
        return;
    }
    let (http, _) = http_on(HOST_IPV4);
    let mut daemon = Daemon::start().await;
    let id = create(&daemon.client(), "web", "sleep 1000", json!({})).await;
    assert_eq!(status(daemon.client().post("/containers/web/start").send().await), 204);
    let passt = passt_of(&daemon, &id);
    assert_eq!(fetch(&daemon.client(), http).await, "this is 192.0.2.9\n");
    daemon.kill();
    assert!(is_passt(passt));
    daemon.restart();
    let client = daemon.client();
    assert_eq!(fetch(&client, http).await, "this is 192.0.2.9\n");
    for verb in ["pause", "unpause"] {
        assert_eq!(status(client.post(format!("/containers/web/{verb}")).send().await), 204);
    }
    assert_eq!(fetch(&client, http).await, "this is 192.0.2.9\n");
    assert_eq!(passt_of(&daemon, &id), passt);
    assert_eq!(status(client.post("/containers/web/restart").query("t", "0").send().await), 204);
    let other = passt_of(&daemon, &id);
    assert_ne!(other, passt);
    await_end_of_passt(passt).await;
    assert_eq!(fetch(&client, http).await, "this is 192.0.2.9\n");
    assert_eq!(status(client.delete("/containers/web").flag("force", true).send().await), 204);
    await_end_of_passt(other).await;
}

#[tokio::test]
async fn a_container_lives_on_when_its_network_is_lost() {
    if !outside::enter() {
        return;
    }
    let (http, _) = http_on(HOST_IPV4);
    let daemon = Daemon::start().await;
    let client = daemon.client();
    let id = create(&client, "web", "sleep 1000", json!({})).await;
    assert_eq!(status(client.post("/containers/web/start").send().await), 204);
    kill(Pid::from_raw(passt_of(&daemon, &id)), Signal::SIGKILL).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !daemon.log().contains("the container has no network until its next start") {
        assert!(Instant::now() < deadline, "nothing is said of it: {}", daemon.log());
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(fetch(&client, http).await.lines().last(), Some("none"));
    assert_eq!(inspect(&client, "web").await["State"]["Status"], "running");
    assert_eq!(status(client.post("/containers/web/restart").query("t", "0").send().await), 204);
    assert_eq!(fetch(&client, http).await, "this is 192.0.2.9\n");
    assert_eq!(status(client.delete("/containers/web").flag("force", true).send().await), 204);
}

#[tokio::test]
async fn inspection_shows_what_the_guest_has() {
    if !outside::enter() {
        return;
    }
    let daemon = Daemon::start().await;
    let client = daemon.client();
    run(&client, "web", "cat /sys/class/net/eth0/address; sleep 1000").await;
    let settings = inspect(&client, "web").await["NetworkSettings"].clone();
    for place in [&settings, &settings["Networks"]["bridge"]] {
        assert_eq!((&place["IPAddress"], &place["Gateway"]), (&json!("10.87.0.2"), &json!("10.87.0.1")));
        assert_eq!((&place["IPPrefixLen"], &place["GlobalIPv6PrefixLen"]), (&json!(24), &json!(64)));
        assert_eq!(place["GlobalIPv6Address"], "fd63:6170:7369:6400::2");
        await_log(&client, "web", &format!("{}\n", place["MacAddress"].as_str().unwrap())).await;
    }
    assert_eq!(status(client.post("/containers/web/stop").query("t", "0").send().await), 204);
    assert_eq!(inspect(&client, "web").await["NetworkSettings"]["IPAddress"], "");
    create(&client, "alone", "sleep 1000", json!({ "HostConfig": { "NetworkMode": "none" } })).await;
    assert_eq!(status(client.post("/containers/alone/start").send().await), 204);
    let settings = inspect(&client, "alone").await["NetworkSettings"].clone();
    assert_eq!(settings["Networks"]["none"]["IPAddress"], "");
    assert!(settings["Networks"]["bridge"].is_null());
    let refused = json!({ "Image": "busybox", "HostConfig": { "ExtraHosts": ["h:host-gateway"] } });
    assert_eq!(status(client.post("/containers/create").json(&refused).send().await), 400);
}
