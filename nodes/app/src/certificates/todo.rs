//! What a member has to do next while the cluster replaces its authority. Pure: what is agreed and what this member has
//! go in, one thing to do comes out.
//!
//! What is agreed may be heard late, or again from the beginning (a store that was emptied is filled from the log): so
//! nothing here goes back. Only the two authorities of the rotation are ever taken in or dropped, and a member that does
//! not know the one that goes has nothing to do with that rotation.

use twinbox_roles::{Fingerprint, Rotation, Step};

/// What a member has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own<'a> {
    /// Authorities whose certificates it takes.
    pub(crate) trusts: &'a [Fingerprint],
    /// The authority that signed the certificate that it shows.
    pub(crate) shows: Fingerprint,
    /// It also shows the link from the former authority.
    pub(crate) linked: bool,
    /// Authorities whose keys it has; none for a witness, which has no keys.
    pub(crate) keys: Option<&'a [Fingerprint]>,
    /// The last step that the cluster knows it to have done.
    pub(crate) said: Option<Step>,
}

/// The next thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Todo {
    /// Nothing, as far as it is known.
    Nothing,
    /// Take certificates of the next authority, too.
    Trust,
    /// Get the next authority's key from another node.
    FetchKey,
    /// Show a certificate of the next authority.
    Show,
    /// Take certificates of this authority no longer.
    Forget(Fingerprint),
    /// Throw the key of this authority away.
    DropKey(Fingerprint),
    /// Tell the cluster that this step is done here.
    Say(Step),
}

/// What comes next.
pub(crate) fn todo(rotation: &Rotation, own: &Own<'_>) -> Todo {
    let Rotation { former, next, step, .. } = rotation;
    let trusts = |authority| own.trusts.contains(authority);
    let has_key = |authority| own.keys.is_some_and(|keys| keys.contains(authority));
    let told = |step| own.said.is_some_and(|said| said >= step);
    if *step == Step::CalledOff {
        return match own.shows == *former {
            true if trusts(next) => Todo::Forget(*next),
            true if has_key(next) => Todo::DropKey(*next),
            _ => Todo::Nothing,
        };
    }
    if !trusts(next) {
        return if trusts(former) { Todo::Trust } else { Todo::Nothing };
    }
    if own.keys.is_some() && !has_key(next) {
        return Todo::FetchKey;
    }
    if *step >= Step::Show && own.shows != *next {
        return Todo::Show;
    }
    if *step >= Step::Drop {
        if trusts(former) || own.linked {
            return Todo::Forget(*former);
        }
        if has_key(former) {
            return Todo::DropKey(*former);
        }
    }
    match step {
        Step::Trust | Step::Show | Step::Drop if !told(*step) => Todo::Say(*step),
        _ => Todo::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const F: Fingerprint = [1; 32];
    const N: Fingerprint = [2; 32];
    const X: Fingerprint = [3; 32];

    fn at(step: Step) -> Rotation {
        Rotation {
            former: F,
            next: N,
            certificate: String::new(),
            cross: String::new(),
            by: "a".parse().unwrap(),
            begun_ms: 0,
            step,
            done: BTreeMap::new(),
            expected: BTreeSet::new(),
            without: BTreeSet::new(),
        }
    }

    // Where the cluster stands, what it trusts, whose key signs, what there is here; what is to be done.
    type Keys = Option<&'static [Fingerprint]>;
    type Case<'a> = (Step, &'a [Fingerprint], Fingerprint, bool, Keys, Option<Step>, Todo);

    #[test]
    fn each_step_brings_what_is_missing_and_nothing_goes_back() {
        use Step::{CalledOff, Drop, Over, Show, Trust};
        let both: &[Fingerprint] = &[F, N];
        let cases: [Case<'_>; 29] = [
            // A node, from the beginning to the end.
            (Trust, &[F], F, false, Some(&[F]), None, Todo::Trust),
            (Trust, both, F, false, Some(&[F]), None, Todo::FetchKey),
            (Trust, both, F, false, Some(&[F, N]), None, Todo::Say(Trust)),
            (Trust, both, F, false, Some(&[F, N]), Some(Trust), Todo::Nothing),
            (Show, both, F, false, Some(&[F, N]), Some(Trust), Todo::Show),
            (Show, both, N, true, Some(&[F, N]), Some(Trust), Todo::Say(Show)),
            (Show, both, N, true, Some(&[F, N]), Some(Show), Todo::Nothing),
            (Drop, both, N, true, Some(&[F, N]), Some(Show), Todo::Forget(F)),
            (Drop, &[N], N, false, Some(&[F, N]), Some(Show), Todo::DropKey(F)),
            (Drop, &[N], N, false, Some(&[N]), Some(Show), Todo::Say(Drop)),
            (Over, &[N], N, false, Some(&[N]), Some(Drop), Todo::Nothing),
            // A witness has no keys.
            (Trust, &[F], F, false, None, None, Todo::Trust),
            (Trust, both, F, false, None, None, Todo::Say(Trust)),
            (Show, both, F, false, None, Some(Trust), Todo::Show),
            (Drop, both, N, true, None, Some(Show), Todo::Forget(F)),
            (Drop, &[N], N, true, None, Some(Show), Todo::Forget(F)),
            (Drop, &[N], N, false, None, Some(Show), Todo::Say(Drop)),
            // Who comes back late, or has just joined, does everything at once.
            (Drop, &[F], F, false, Some(&[F]), None, Todo::Trust),
            (Over, both, F, false, Some(&[F, N]), None, Todo::Show),
            (Drop, &[N], N, false, Some(&[N]), None, Todo::Say(Drop)),
            // Heard again from the beginning: who is through stays through.
            (Trust, &[N], N, false, Some(&[N]), Some(Trust), Todo::Nothing),
            (Trust, both, N, true, Some(&[F, N]), Some(Trust), Todo::Nothing),
            (Trust, &[X], X, false, Some(&[X]), None, Todo::Nothing),
            (Over, &[X], X, false, Some(&[X]), None, Todo::Nothing),
            // Called off.
            (CalledOff, both, F, false, Some(&[F, N]), Some(Trust), Todo::Forget(N)),
            (CalledOff, &[F], F, false, Some(&[F, N]), Some(Trust), Todo::DropKey(N)),
            (CalledOff, &[F], F, false, Some(&[F]), Some(Trust), Todo::Nothing),
            (CalledOff, &[F, X], F, false, Some(&[F, X]), None, Todo::Nothing),
            (CalledOff, both, N, true, Some(&[F, N]), None, Todo::Nothing),
        ];
        for (step, trusts, shows, linked, keys, said, expected) in cases {
            let own = Own { trusts, shows, linked, keys, said };
            assert_eq!(todo(&at(step), &own), expected, "{step:?}: {own:?}");
        }
    }
}
