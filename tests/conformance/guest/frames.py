"""Frames that no kernel would send: to the host's loopback by each of its names, from the card's address and from others.

    frames.py UDP_PORT UDP_PORT_OF_IPV6 OPEN_PORT

Run in a container; see network.rs.
"""
import socket, struct, sys
def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def udp(source, target, port, pseudo):
    head = struct.pack("!HHHH", 4000, port, 9, 0)
    sum_ = checksum(pseudo + head + b"x") or 0xffff
    return struct.pack("!HHHH", 4000, port, 9, sum_) + b"x"
def v4(source, target, port):
    s, t = socket.inet_aton(source), socket.inet_aton(target)
    body = udp(s, t, port, s + t + struct.pack("!BBH", 0, 17, 9))
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 64, 17, 0, s, t)
    return b"\x08\x00", head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body
def v6(source, target, port):
    s, t = (socket.inet_pton(socket.AF_INET6, text) for text in (source, target))
    body = udp(s, t, port, s + t + struct.pack("!IHBB", 9, 0, 0, 17))
    return b"\x86\xdd", struct.pack("!IHBB", 6 << 28, len(body), 17, 64) + s + t + body
own = open("/sys/class/net/eth0/address").read().strip().replace(":", "")
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0))
gateway = bytes.fromhex("026361707364")
p4, p6, open4 = map(int, sys.argv[1:])
packets = [v4(s, t, p4) for s in ("10.87.0.2", "127.0.0.1", "192.0.2.9", "10.87.0.1")
           for t in ("127.0.0.1", "127.1.2.3", "0.0.0.0", "10.87.0.1", "255.255.255.255")]
packets += [v6(s, t, p6) for s in ("fd63:6170:7369:6400::2", "::1", "fd00:1::9", "fe80::2")
            for t in ("::1", "::", "::ffff:127.0.0.1", "fd63:6170:7369:6400::1", "ff02::1")]
packets += [v6("fd63:6170:7369:6400::2", "::ffff:127.0.0.1", p4)]
for target in (gateway, b"\xff" * 6):
    for source in (bytes.fromhex(own), bytes.fromhex("02aabbccddee"), gateway, b"\0" * 6):
        for kind, packet in packets:
            wire.send(target + source + kind + packet)
wire.send(gateway + bytes.fromhex(own) + b"\x08\x00" + b"\x45" * 60000)
wire.send(gateway + bytes.fromhex(own) + b"\x08\x00")
# What goes where it may arrives, so the others were sent as well.
kind, packet = v4("10.87.0.2", "192.0.2.9", open4)
wire.send(gateway + bytes.fromhex(own) + kind + packet)
print("sent")
