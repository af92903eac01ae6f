//! Values that one user alone may have: numbers and mail addresses. Conflicts and the order of moves.

use std::collections::{BTreeSet, HashMap, HashSet};

/// The value that a user of a run has in the store, and the one that it is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim<'a> {
    pub has: Option<&'a str>,
    pub wants: Option<&'a str>,
}

impl Claim<'_> {
    fn moves(&self) -> bool {
        self.has != self.wants
    }
}

/// The claims that are refused, by index. Of users that want one value, one that has it already keeps it, and the
/// others are refused; when none has it, all are refused. A refused user keeps its own value, which may refuse others
/// in turn. `kept` are the values of all other users. The result does not depend on the order of the claims.
pub(crate) fn contested(claims: &[Claim<'_>], kept: &HashSet<&str>) -> BTreeSet<usize> {
    let mut held: HashSet<&str> = kept.clone();
    let mut movers: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, claim) in claims.iter().enumerate() {
        match claim.wants {
            Some(value) if claim.moves() => movers.entry(value).or_default().push(at),
            Some(value) => {
                held.insert(value);
            }
            None => {}
        }
    }
    let is_contested = |(value, movers): &(&&str, &Vec<usize>)| movers.len() > 1 || held.contains(**value);
    let mut open: Vec<&str> = movers.iter().filter(is_contested).map(|(value, _)| *value).collect();
    let mut refused = BTreeSet::new();
    while let Some(value) = open.pop() {
        for at in movers.remove(value).unwrap_or_default() {
            refused.insert(at);
            let has = claims.get(at).and_then(|claim| claim.has);
            open.extend(has.filter(|has| movers.contains_key(has)));
        }
    }
    refused
}

/// An order in which each value is free when its next user takes it: indices of claims, and the rings, in which no order
/// is right: each member takes the value of another. The claims are not contested.
pub(crate) fn in_order(claims: &[Claim<'_>]) -> (Vec<usize>, Vec<Vec<usize>>) {
    let left: HashSet<&str> = claims.iter().filter(|claim| claim.moves()).filter_map(|claim| claim.has).collect();
    let taken = claims.iter().enumerate().filter(|(_, claim)| claim.moves());
    let takers: HashMap<&str, usize> = taken.filter_map(|(at, claim)| Some((claim.wants?, at))).collect();
    // The claim that takes the value which this one leaves.
    let successor = |at: usize| {
        let leaves = claims.get(at).filter(|claim| claim.moves()).and_then(|claim| claim.has);
        leaves.and_then(|value| takers.get(value).copied())
    };
    let mut order = Vec::with_capacity(claims.len());
    let mut rest: BTreeSet<usize> = (0..claims.len()).collect();
    for (at, claim) in claims.iter().enumerate() {
        if claim.moves() && claim.wants.is_some_and(|value| left.contains(value)) {
            continue;
        }
        let mut next = Some(at);
        while let Some(at) = next.filter(|at| rest.remove(at)) {
            order.push(at);
            next = successor(at);
        }
    }
    let mut rings = Vec::new();
    while let Some(first) = rest.pop_first() {
        let mut ring = vec![first];
        let mut next = successor(first);
        while let Some(at) = next.filter(|at| rest.remove(at)) {
            ring.push(at);
            next = successor(at);
        }
        rings.push(ring);
    }
    (order, rings)
}

/// The values that a claim takes from another user of the run, who leaves them.
pub(crate) fn handed_over<'a>(claims: &[Claim<'a>]) -> HashSet<&'a str> {
    let left: HashSet<&str> = claims.iter().filter(|claim| claim.moves()).filter_map(|claim| claim.has).collect();
    let taken = claims.iter().filter(|claim| claim.moves()).filter_map(|claim| claim.wants);
    taken.filter(|value| left.contains(value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim<'a>(has: &'a str, wants: &'a str) -> Claim<'a> {
        let value = |text: &'a str| Some(text).filter(|text| !text.is_empty());
        Claim { has: value(has), wants: value(wants) }
    }

    fn refused(kept: &[&str], claims: &[(&str, &str)]) -> Vec<usize> {
        let claims: Vec<_> = claims.iter().map(|(has, wants)| claim(has, wants)).collect();
        contested(&claims, &kept.iter().copied().collect()).into_iter().collect()
    }

    #[test]
    fn one_value_has_one_user_and_refusals_reach_along_a_chain() {
        assert_eq!(refused(&[], &[("", "1"), ("", "2")]), [0; 0]);
        assert_eq!(refused(&["1"], &[("", "1"), ("", "2")]), [0]);
        assert_eq!(refused(&[], &[("", "1"), ("", "1"), ("", "2")]), [0, 1]);
        // The one who has it keeps it.
        assert_eq!(refused(&[], &[("1", "1"), ("", "1")]), [1]);
        // A chain of moves is fine, until its end is refused.
        assert_eq!(refused(&[], &[("1", "2"), ("2", "3"), ("", "1")]), [0; 0]);
        assert_eq!(refused(&["3"], &[("1", "2"), ("2", "3"), ("", "1")]), [0, 1, 2]);
        // A value that is given up is free.
        assert_eq!(refused(&[], &[("1", ""), ("", "1")]), [0; 0]);
    }

    #[test]
    fn values_are_free_when_they_are_taken_and_rings_are_named() {
        let claims = [
            ("", "1"),
            ("1", "2"),
            ("2", "3"),
            ("5", "6"),
            ("6", "5"),
            ("9", "9"),
            // A ring of three.
            ("7", "8"),
            ("10", "7"),
            ("8", "10"),
        ];
        let claims = claims.map(|(has, wants)| claim(has, wants));
        let (order, rings) = in_order(&claims);
        assert_eq!(order, [2, 1, 0, 5]);
        assert_eq!(rings, [vec![3, 4], vec![6, 7, 8]]);
        assert_eq!(handed_over(&claims), HashSet::from(["1", "2", "5", "6", "7", "8", "10"]));
    }
}
