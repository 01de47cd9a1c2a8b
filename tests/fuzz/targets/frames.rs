//! The agent protocol's frames, as the other side of a connection may send them: any bytes, in any pieces.
//!
//! Both readers must agree on every stream, hold no more than the cap allows, and read back what they write.
#![no_main]

use capsid_protocol::{
    ControlAccepted, FrameAssembler, FrameError, Opening, OpeningReply, Ready, Request, RequestId, Response,
    encode_frame, read_frame,
};
use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};

fuzz_target!(|input: (u8, Vec<u8>, u8)| {
    let (piece, stream, message) = input;
    let piece = usize::from(piece).max(1);
    match message % 6 {
        0 => check::<Request>(&stream, piece),
        1 => check::<Response>(&stream, piece),
        2 => check::<Opening>(&stream, piece),
        3 => check::<OpeningReply>(&stream, piece),
        4 => check::<ControlAccepted>(&stream, piece),
        _ => check::<Ready>(&stream, piece),
    }
});

fn check<M: Serialize + DeserializeOwned>(stream: &[u8], piece: usize) {
    let mut whole = stream;
    let mut assembler = FrameAssembler::default();
    let mut pieces = stream.chunks(piece);
    loop {
        let blocking = read_frame::<M>(&mut whole);
        let assembled = loop {
            match assembler.next_frame::<M>() {
                Ok(None) => match pieces.next() {
                    Some(piece) => assembler.push(piece),
                    None => break Ok(None),
                },
                other => break other,
            }
        };
        match (blocking, assembled) {
            (Ok((id, message)), Ok(Some((other_id, other)))) => {
                assert_eq!(id, other_id);
                let wire = encode_frame(id, &message).expect("a message that was read can be written");
                assert_eq!(wire, encode_frame(id, &other).expect("so can its twin"));
                let (_, again): (RequestId, M) = read_frame(&mut wire.as_slice()).expect("and read again");
                assert_eq!(wire, encode_frame(id, &again).expect("and written again"));
            }
            // An end between or inside frames is an error to who waits for more, and just no frame yet to who does not.
            (Err(FrameError::Closed | FrameError::Io(_)), Ok(None)) => return,
            (Err(FrameError::TooLong { .. }), Err(FrameError::TooLong { .. })) => return,
            (Err(FrameError::Malformed(_)), Err(FrameError::Malformed(_))) => return,
            (blocking, assembled) => panic!(
                "the readers disagree: {:?} and {:?}",
                blocking.map(|(id, _)| id),
                assembled.map(|frame| frame.map(|(id, _)| id))
            ),
        }
    }
}
