//! Work on files, as far as the server has to do with it.

use capsid_protocol::{ErrorCode, FilesWork, Opening, OpeningReply, ProcessId, Request, Response};

use super::host::Host;

#[test]
fn so_many_works_are_under_way_and_no_more_and_a_shutdown_ends_them() {
    let mut host = Host::new();
    let mut control = host.control();
    // As long as an opening can be: JSON needs six bytes for each of these.
    let work = Opening::Files(FilesWork::StatPath { path: "\u{1}".repeat(4095) });
    let working: Vec<_> = (0..16).map(|_| host.say(&work)).collect();
    let (_, reply) = host.open(&work);
    let OpeningReply::Refused(refusal) = reply else { panic!("accepted: {reply:?}") };
    assert_eq!(refusal.code, ErrorCode::InvalidState);
    // Control does not wait for them, and nobody takes them for processes.
    let answer = host.ask(&mut control, &Request::Wait { process: ProcessId(0) });
    assert!(matches!(answer, Response::Failed(_)), "{answer:?}");
    // Answered once the last of them is reaped, long before they would end by themselves.
    assert_eq!(host.ask(&mut control, &Request::Shutdown), Response::Done);
    drop(working);
}
