use proptest::prelude::*;

use super::*;

const REQUESTS: [Request; 13] = [
    Request::Start,
    Request::Stop,
    Request::Restart,
    Request::Kill { for_good: true },
    Request::Kill { for_good: false },
    Request::Pause,
    Request::Unpause,
    Request::Exec,
    Request::Attach,
    Request::Files,
    Request::Change,
    Request::Remove { force: false },
    Request::Remove { force: true },
];

/// A container of three facts, to compare the policy with: what Docker's documentation says in words.
#[derive(Debug, Clone, Copy)]
struct Model {
    phase: Phase,
}

impl Model {
    /// What a driver makes of a decision, with everything that it begins ending at once and well.
    fn apply(&mut self, request: Request) -> Decision {
        let decision = decide(self.phase, request);
        let acts = matches!(
            decision,
            Decision::Do | Decision::ResumeThenDo | Decision::EndThenDo | Decision::CancelRestart
        );
        if acts {
            self.phase = match request {
                Request::Start | Request::Restart => Phase::Running,
                Request::Stop => Phase::Exited,
                Request::Kill { .. } if self.phase == Phase::Restarting => Phase::Exited,
                Request::Kill { for_good: true } => Phase::Exited,
                Request::Pause => Phase::Paused,
                Request::Unpause => Phase::Running,
                Request::Remove { .. } => Phase::Removing,
                Request::Kill { for_good: false }
                | Request::Exec
                | Request::Attach
                | Request::Files
                | Request::Change => self.phase,
            };
        }
        decision
    }
}

proptest! {
    #[test]
    fn requests_lead_where_their_names_say(requests in proptest::collection::vec(0..REQUESTS.len(), 0..40)) {
        let mut model = Model { phase: Phase::Created };
        for request in requests.into_iter().map(|index| REQUESTS[index]) {
            let before = model.phase;
            let decision = model.apply(request);
            match decision {
                Decision::Refuse(_) | Decision::AlreadySo | Decision::Later => prop_assert_eq!(before, model.phase),
                _ => {}
            }
            let reached = match request {
                Request::Start | Request::Restart => model.phase == Phase::Running,
                Request::Stop => !model.phase.counts_as_running(),
                Request::Kill { for_good: true } => model.phase != Phase::Running,
                Request::Pause => model.phase == Phase::Paused,
                Request::Unpause => model.phase != Phase::Paused,
                Request::Remove { force: true } => model.phase == Phase::Removing,
                _ => true,
            };
            let refused = matches!(decision, Decision::Refuse(_) | Decision::Later);
            prop_assert!(reached || refused, "{:?} in {:?} gave {:?}", request, before, decision);
        }
    }

    #[test]
    fn delays_double_from_the_first_to_the_longest(restarts in 1_u32..40) {
        let mut last = Duration::ZERO;
        for count in 0..restarts {
            let end = Ending {
                failed: true,
                by_hand: false,
                ran_for: Duration::ZERO,
                restarts: count,
                last_delay: last,
            };
            let Next::Restart { after } = after_end(RestartPolicy::Always, false, end) else {
                panic!("always restarts")
            };
            prop_assert!(after >= last && after <= LONGEST_DELAY && after >= FIRST_DELAY);
            last = after;
        }
    }
}

#[test]
fn nothing_is_done_in_a_passing_phase_but_attaching() {
    for phase in Phase::ALL.into_iter().filter(|phase| phase.is_passing()) {
        for request in REQUESTS {
            let decision = decide(phase, request);
            let waits = matches!(decision, Decision::Later | Decision::Refuse(Refused::IsRemoved));
            assert!(waits || request == Request::Attach, "{phase:?} {request:?} {decision:?}");
        }
    }
}

#[test]
fn whatever_is_not_removed_can_be_removed_by_force() {
    for phase in Phase::ALL.into_iter().filter(|phase| !phase.is_passing()) {
        let decision = decide(phase, Request::Remove { force: true });
        assert!(!matches!(decision, Decision::Refuse(_) | Decision::AlreadySo), "{phase:?}");
    }
}

#[test]
fn stop_while_paused_resumes_then_stops() {
    assert_eq!(decide(Phase::Paused, Request::Stop), Decision::ResumeThenDo);
    assert_eq!(decide(Phase::Paused, Request::Kill { for_good: true }), Decision::ResumeThenDo);
}

#[test]
fn policies_restart_as_docker_documents_them() {
    let end = |failed, by_hand, restarts| Ending {
        failed,
        by_hand,
        ran_for: Duration::ZERO,
        restarts,
        last_delay: Duration::ZERO,
    };
    let again = |policy, end| matches!(after_end(policy, false, end), Next::Restart { .. });
    let on_failure = RestartPolicy::OnFailure { retries: 2 };
    assert!(!again(RestartPolicy::No, end(true, false, 0)));
    assert!(again(RestartPolicy::Always, end(false, false, 9)));
    assert!(!again(RestartPolicy::Always, end(true, true, 0)));
    assert!(!again(RestartPolicy::UnlessStopped, end(true, true, 0)));
    assert!(again(on_failure, end(true, false, 1)) && !again(on_failure, end(true, false, 2)));
    assert!(!again(on_failure, end(false, false, 0)));
    assert!(again(RestartPolicy::OnFailure { retries: 0 }, end(true, false, 1000)));
    assert_eq!(after_end(RestartPolicy::No, true, end(false, false, 0)), Next::Remove);
}

#[test]
fn a_good_run_resets_the_delay() {
    let end =
        Ending { failed: true, by_hand: false, ran_for: GOOD_RUN, restarts: 7, last_delay: LONGEST_DELAY };
    assert_eq!(after_end(RestartPolicy::Always, false, end), Next::Restart { after: FIRST_DELAY });
}

#[test]
fn a_new_daemon_starts_what_its_policy_says() {
    use Phase::{Exited, Restarting};
    assert!(starts_with_daemon(RestartPolicy::Always, Exited, true));
    assert!(!starts_with_daemon(RestartPolicy::UnlessStopped, Exited, true));
    assert!(starts_with_daemon(RestartPolicy::UnlessStopped, Exited, false));
    assert!(!starts_with_daemon(RestartPolicy::No, Exited, false));
    assert!(starts_with_daemon(RestartPolicy::OnFailure { retries: 1 }, Restarting, false));
    assert!(!starts_with_daemon(RestartPolicy::Always, Phase::Created, false));
}
