//! Next action of a member during a CA rotation. Pure: computed from the agreed state and the member's own state.
//!
//! The agreed state may arrive late, or be replayed from the beginning (an emptied store is filled from the log).
//! Therefore no action goes back. Only the two CAs of the rotation are ever added or removed, and a member that
//! does not know the former CA takes no part in that rotation.

use twinbox_roles::{Fingerprint, Rotation, Step};

/// State of the member.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own<'a> {
    /// CAs whose certificates it trusts.
    pub(crate) trusts: &'a [Fingerprint],
    /// CA that signed the certificate that it shows.
    pub(crate) shows: Fingerprint,
    /// Whether it also shows the cross-signed certificate of the former CA.
    pub(crate) linked: bool,
    /// CAs whose keys it has; `None` for a witness, which has no keys.
    pub(crate) keys: Option<&'a [Fingerprint]>,
    /// Last step of this member that the cluster knows to be done.
    pub(crate) said: Option<Step>,
}

/// Next action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Todo {
    /// No action at present.
    Nothing,
    /// Trust the next CA, too.
    Trust,
    /// Fetch the next CA's key from another node.
    FetchKey,
    /// Show a certificate of the next CA.
    Show,
    /// Stop trusting this CA.
    Forget(Fingerprint),
    /// Delete the key of this CA.
    DropKey(Fingerprint),
    /// Report to the cluster that this step is done here.
    Say(Step),
}

/// Next action of the member.
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

    // Step of the cluster, trusted CAs, signing CA, link, keys, reported step; expected action.
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
            // A member that returns late, or has just joined, does everything in one sequence.
            (Drop, &[F], F, false, Some(&[F]), None, Todo::Trust),
            (Over, both, F, false, Some(&[F, N]), None, Todo::Show),
            (Drop, &[N], N, false, Some(&[N]), None, Todo::Say(Drop)),
            // Log replay: a member that finished the rotation does nothing.
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
