//! From the host to the guest: packets into the rx ring.
//!
//! The guest's receive buffers are small (4 KiB in Linux), so data is read from a socket into as many of them as
//! its credit allows with one system call.

use std::io;
use std::os::fd::AsFd;

use vm_memory::{GuestMemoryMmap, VolatileSlice};

use super::super::ring::{self, Chain, Ring, RingFault};
use super::connection::Connection;
use super::packet::HEADER_BYTES;
use super::stream::Stream;
use super::worker::Worker;
use crate::memory::{self, MAX_PIECES};

/// Most data for one stream before the next has its turn.
const TURN_BYTES: usize = 64 * 1024;
/// Most turns in one round.
const MAX_TURNS: usize = 32;
/// Most chains of one turn: with a header and data each, all of them fit one `readv`.
const MAX_CHAINS: usize = MAX_PIECES / 4;

/// What became of a turn.
enum Turn {
    /// It is over.
    Done,
    /// The guest offers no buffer.
    Starved,
}

impl Worker {
    /// One round of those who have something for the guest. True if the guest offered buffers after all.
    pub(super) fn send_to_guest(&mut self, memory: &GuestMemoryMmap) -> Result<bool, RingFault> {
        self.starved = false;
        for _ in 0..MAX_TURNS {
            let turn = if let Some(stray) = self.strays.front() {
                let header = stray.encode(self.host.guest_cid);
                let turn = send_header(&mut self.rx, memory, || Some(header))?;
                if matches!(turn, Turn::Done) {
                    self.strays.pop_front();
                }
                turn
            } else if let Some(&id) = self.senders.front() {
                let turn = self.take_turn(id, memory)?;
                if matches!(turn, Turn::Done) {
                    self.senders.pop_front();
                    if let Some(stream) = self.table.get(id) {
                        stream.queued = false;
                    }
                    self.settle(id);
                }
                turn
            } else {
                return Ok(false);
            };
            if matches!(turn, Turn::Starved) {
                // Only now are kicks of this ring of use.
                self.starved = !self.rx.ask_for_kick(memory)?;
                return Ok(!self.starved);
            }
        }
        Ok(false)
    }

    /// Sends all that a stream owes, then some of its data.
    fn take_turn(&mut self, id: u64, memory: &GuestMemoryMmap) -> Result<Turn, RingFault> {
        let guest_cid = self.host.guest_cid;
        let Some(stream) = self.table.get(id) else { return Ok(Turn::Done) };
        if stream.lingers {
            return Ok(Turn::Done);
        }
        let rx = &mut self.rx;
        while stream.connection.owes() {
            let connection = &mut stream.connection;
            let turn =
                send_header(rx, memory, || connection.next_owed().map(|packet| packet.encode(guest_cid)))?;
            if matches!(turn, Turn::Starved) {
                return Ok(turn);
            }
        }
        if stream.connection.is_finished() {
            self.table.remove(id);
            return Ok(Turn::Done);
        }
        if !stream.readable {
            return Ok(Turn::Done);
        }
        send_data(rx, memory, stream, guest_cid)
    }
}

/// Sends a packet without data, which is only made when there is a buffer for it.
fn send_header(
    rx: &mut Ring,
    memory: &GuestMemoryMmap,
    make: impl FnOnce() -> Option<[u8; HEADER_BYTES]>,
) -> Result<Turn, RingFault> {
    let mut segments = Vec::new();
    let Some(chain) = next_usable(rx, memory, &mut segments, HEADER_BYTES)? else {
        return Ok(Turn::Starved);
    };
    let Some(header) = make() else {
        rx.put_back(1);
        return Ok(Turn::Done);
    };
    ring::put(&segments, &header);
    rx.complete(memory, chain, HEADER_BYTES)?;
    Ok(Turn::Done)
}

/// Reads from the stream's socket straight into the guest's buffers.
fn send_data(
    rx: &mut Ring,
    memory: &GuestMemoryMmap,
    stream: &mut Stream,
    guest_cid: u64,
) -> Result<Turn, RingFault> {
    let wanted = TURN_BYTES.min(stream.connection.room() as usize);
    if wanted == 0 {
        return Ok(Turn::Done);
    }
    let mut segments = Vec::new();
    let chains = take_chains(rx, memory, &mut segments, wanted)?;
    if chains.is_empty() {
        return Ok(Turn::Starved);
    }
    let room = Room::new(&segments, &chains, wanted);
    let read = read_into(stream, &room.data);
    let mut left = read;
    let mut used = 0;
    for (chain, header) in chains.iter().zip(&room.headers) {
        if left == 0 {
            break;
        }
        let bytes = left.min(chain.bytes - HEADER_BYTES);
        let packet = data_packet(&mut stream.connection, bytes);
        ring::put(header, &packet.encode(guest_cid));
        rx.complete(memory, *chain, HEADER_BYTES + bytes)?;
        left -= bytes;
        used += 1;
    }
    rx.put_back(u16::try_from(chains.len() - used).unwrap_or(0));
    Ok(Turn::Done)
}

fn data_packet(connection: &mut Connection, bytes: usize) -> super::packet::Packet {
    connection.data(u32::try_from(bytes).unwrap_or(u32::MAX))
}

/// One read. Zero bytes: nothing is there, or nothing will be.
fn read_into(stream: &mut Stream, data: &[VolatileSlice<'_>]) -> usize {
    match memory::read_stream(stream.socket.as_fd(), data) {
        Ok(0) => stream.end_of_input(),
        Ok(read) => return read,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.readable = false,
        Err(_) => stream.end_of_input(),
    }
    0
}

/// Takes chains with room for `wanted` bytes of data together, or as many as there are.
fn take_chains<'m>(
    rx: &mut Ring,
    memory: &'m GuestMemoryMmap,
    segments: &mut Vec<VolatileSlice<'m>>,
    wanted: usize,
) -> Result<Vec<Chain>, RingFault> {
    let mut chains = Vec::new();
    let mut room = 0;
    while room < wanted && chains.len() < MAX_CHAINS && segments.len() < MAX_PIECES {
        // One that holds a header and no data is of no use here: it would be taken again for ever.
        let usable = if chains.is_empty() {
            next_usable(rx, memory, segments, HEADER_BYTES + 1)?
        } else {
            next_in_batch(rx, memory, segments)?
        };
        let Some(chain) = usable else { break };
        room += chain.bytes - HEADER_BYTES;
        chains.push(chain);
    }
    Ok(chains)
}

/// The next chain of at least `least` bytes. Those that are shorter go back to the driver, empty.
fn next_usable<'m>(
    rx: &mut Ring,
    memory: &'m GuestMemoryMmap,
    segments: &mut Vec<VolatileSlice<'m>>,
    least: usize,
) -> Result<Option<Chain>, RingFault> {
    while let Some(chain) = rx.next(memory, segments)? {
        if chain.bytes >= least {
            return Ok(Some(chain));
        }
        segments.truncate(chain.first);
        rx.complete(memory, chain, 0)?;
    }
    Ok(None)
}

/// As [`next_usable`] behind chains that may still be put back: a chain of no use ends the batch instead, since only
/// what was taken last can be put back.
fn next_in_batch<'m>(
    rx: &mut Ring,
    memory: &'m GuestMemoryMmap,
    segments: &mut Vec<VolatileSlice<'m>>,
) -> Result<Option<Chain>, RingFault> {
    let Some(chain) = rx.next(memory, segments)? else { return Ok(None) };
    if chain.bytes > HEADER_BYTES {
        return Ok(Some(chain));
    }
    segments.truncate(chain.first);
    rx.put_back(1);
    Ok(None)
}

/// The segments of several chains, parted into where headers go and where data goes.
struct Room<'m> {
    headers: Vec<Vec<VolatileSlice<'m>>>,
    data: Vec<VolatileSlice<'m>>,
}

impl<'m> Room<'m> {
    /// Room for no more than `wanted` bytes of data.
    fn new(segments: &[VolatileSlice<'m>], chains: &[Chain], wanted: usize) -> Room<'m> {
        let mut room = Room { headers: Vec::with_capacity(chains.len()), data: Vec::new() };
        for chain in chains {
            let all = &segments[chain.first..chain.first + chain.segments];
            let mut header = all.to_vec();
            ring::shorten(&mut header, HEADER_BYTES);
            let mut data = all.to_vec();
            ring::advance(&mut data, HEADER_BYTES);
            room.headers.push(header);
            room.data.append(&mut data);
        }
        ring::shorten(&mut room.data, wanted);
        room
    }
}
