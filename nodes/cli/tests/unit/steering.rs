use super::*;

#[test]
fn removal_that_leaves_two_voters_is_named() {
    let member = |(name, kind, status): &(&str, &str, &str)| Member {
        name: (*name).to_owned(),
        kind: (*kind).to_owned(),
        status: (*status).to_owned(),
        ..Member::default()
    };
    let (a, b, c) = (("a", "node", "in-service"), ("b", "node", "not-functioning"), ("c", "node", "in-service"));
    let (here, away) = (("w", "witness", "in-service"), ("w", "witness", "not-functioning"));
    for (members, expected) in [
        (vec![a, b, away], "; until w is back, the loss of a or b stops the duties"),
        (vec![a, b, here], ""),
        (vec![a, b], ""),
        // Of one node and of three, the nodes vote.
        (vec![a, away], ""),
        (vec![a, b, c, away], ""),
    ] {
        assert_eq!(caution(&members.iter().map(member).collect::<Vec<_>>()), expected, "{members:?}");
    }
}
