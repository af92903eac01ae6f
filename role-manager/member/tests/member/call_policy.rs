//! Call policy of a passive node: it decides by its own last contacts.

use std::time::Duration;

use twinbox_roles_core::{
    Command, CommandOutcome, LocalFacts, Mode, Order, OrderId, RolesView, Setting, State, Status, Timing,
};
use twinbox_roles_member::{CallPolicy, call_policy};

use crate::common::{name, pair};

fn set(state: &mut State, setting: Setting) {
    let id = OrderId(state.orders.len() as u128 + 1);
    let order = Order::Set(vec![setting]);
    assert_eq!(state.apply(Command::Operate { id, order }), CommandOutcome::Done);
}

#[test]
fn a_passive_node_refuses_calls_while_it_has_contact_with_the_active_one() {
    let mut state = pair();
    set(&mut state, Setting::Mode(Mode::ActivePassive));
    let limit = Timing::lan().silence_limit(&state);
    let see = |state: &State, own: &str, quorum: bool, silence: Option<Duration>| {
        let known = LocalFacts { quorum, ..LocalFacts::default() };
        let view = RolesView::new(&name(own), state, &known);
        call_policy(&view, &name(own), limit, |_| silence)
    };
    let lately = Some(Duration::from_millis(100));
    let closed = see(&state, "b", true, lately);
    assert!(
        matches!(&closed, CallPolicy::Refuse { retry_after, reason } if *retry_after == limit && reason.contains("a answers"))
    );
    assert_eq!(see(&state, "b", false, lately), closed, "without a majority its own contacts count");
    assert_eq!(see(&state, "a", true, None), CallPolicy::Answer, "the active node answers, whatever its contacts");
    assert_eq!(see(&state, "b", true, Some(limit + Duration::from_millis(1))), CallPolicy::Answer);
    assert_eq!(see(&state, "b", true, None), CallPolicy::Answer);
    // The majority has agreed that the active node is out, though it is still heard.
    let mut failed = state.clone();
    let revision = failed.members[&name("a")].revision;
    let (status, incarnation, reason) = (Status::NotFunctioning, None, "it has exited".to_owned());
    let cause = Default::default();
    let out = Command::SetStatus { name: name("a"), revision, status, incarnation, reason, cause };
    assert_eq!(failed.apply(out), CommandOutcome::Done);
    assert_eq!(see(&failed, "b", true, lately), CallPolicy::Answer);
    assert_eq!(see(&failed, "b", false, lately), closed);
    set(&mut state, Setting::ForceFailoverOnCall(true));
    assert!(matches!(see(&state, "b", true, lately), CallPolicy::OnCall { .. }));
    set(&mut state, Setting::Mode(Mode::ActiveActive));
    assert_eq!(see(&state, "b", true, lately), CallPolicy::Answer);
}
