//! Resets of TCP connections, as a guest understands them.
//!
//! passt refuses a guest's connection by a reset that names what it acknowledges and does not say so: the flag is
//! missing. A guest that waits for an answer to its SYN ignores such a reset (RFC 9293, 3.10.7.3), tries again for two
//! minutes, and tells its program of a timeout instead of "connection refused". Here the flag is set. Pure.

// Ethernet, IPv4 (RFC 791) and IPv6 (RFC 8200).
const ETHER_TYPE: std::ops::Range<usize> = 12..14;
const PAYLOAD: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const IPV4_PROTOCOL: usize = PAYLOAD + 9;
const IPV6_NEXT_HEADER: usize = PAYLOAD + 6;
const IPV6_HEADER_BYTES: usize = 40;
const TCP: u8 = 6;
// TCP (RFC 9293, 3.1).
const FLAGS: usize = 13;
const CHECKSUM: std::ops::Range<usize> = 16..18;
const HEADER_BYTES: usize = 20;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Completes a frame that is such a reset, and leaves every other as it is.
pub(crate) fn complete(frame: &mut [u8]) {
    let Some(header) = tcp_at(frame).and_then(|at| frame.get_mut(at..at + HEADER_BYTES)) else { return };
    if header[FLAGS] & (RST | ACK) != RST {
        return;
    }
    header[FLAGS] |= ACK;
    // The sum's complement grows by what the word has grown by (RFC 1624).
    let sum = u16::from_be_bytes([header[CHECKSUM.start], header[CHECKSUM.start + 1]]);
    let (rest, carried) = sum.overflowing_sub(u16::from(ACK));
    header[CHECKSUM].copy_from_slice(&rest.wrapping_sub(u16::from(carried)).to_be_bytes());
}

/// Where the TCP header is.
fn tcp_at(frame: &[u8]) -> Option<usize> {
    match <[u8; 2]>::try_from(frame.get(ETHER_TYPE)?).ok()? {
        IPV4 if *frame.get(IPV4_PROTOCOL)? == TCP => {
            Some(PAYLOAD + 4 * usize::from(frame.get(PAYLOAD)? & 0x0f))
        }
        IPV6 if *frame.get(IPV6_NEXT_HEADER)? == TCP => Some(PAYLOAD + IPV6_HEADER_BYTES),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The internet checksum over a TCP header, as if all else were zero (RFC 1071).
    fn sum(header: &[u8]) -> u16 {
        let words = header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    fn frame(kind: [u8; 2], header: &[u8], flags: u8, seed: u8) -> Vec<u8> {
        let mut tcp = [seed; HEADER_BYTES];
        tcp[FLAGS] = flags;
        tcp[CHECKSUM].fill(0);
        let checksum = !sum(&tcp);
        tcp[CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
        [&[2; 12][..], &kind, header, &tcp].concat()
    }

    fn of_ipv4(protocol: u8) -> [u8; 20] {
        let mut header = [0; 20];
        (header[0], header[9]) = (0x45, protocol);
        header
    }

    #[test]
    fn a_reset_says_that_it_acknowledges() {
        let mut ipv6 = [0; IPV6_HEADER_BYTES];
        ipv6[6] = TCP;
        for seed in 0..=255 {
            for mut frame in [frame(IPV4, &of_ipv4(TCP), RST, seed), frame(IPV6, &ipv6, RST, seed)] {
                complete(&mut frame);
                let tcp = &frame[frame.len() - HEADER_BYTES..];
                assert_eq!((tcp[FLAGS], sum(tcp)), (RST | ACK, 0xffff), "{seed}");
                let before = frame.clone();
                complete(&mut frame);
                assert_eq!(frame, before);
            }
        }
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        for (protocol, flags) in [(TCP, ACK), (TCP, 0x02), (TCP, 0x12), (17, RST), (1, RST)] {
            let original = frame(IPV4, &of_ipv4(protocol), flags, 7);
            let mut frame = original.clone();
            complete(&mut frame);
            assert_eq!(frame, original);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(mut frame in prop::collection::vec(any::<u8>(), 0..100), ipv6: bool) {
            if let Some(kind) = frame.get_mut(ETHER_TYPE) {
                kind.copy_from_slice(if ipv6 { &IPV6 } else { &IPV4 });
            }
            complete(&mut frame);
        }
    }
}
