//! Next action of a member during a CA rotation. Pure: computed from the agreed state and the member's own state.
//!
//! The agreed state may arrive late, or be replayed from the beginning (an emptied store is filled from the log).
//! Therefore no action goes back. Only the two CAs of the rotation are ever added or removed, and a member that
//! does not know the former CA takes no part in that rotation.

use twinbox_roles::{Fingerprint, Rotation, RotationStep};

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
    pub(crate) reported: Option<RotationStep>,
}

/// Next action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RotationAction {
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
    Report(RotationStep),
}

/// Next action of the member, given the present rotation and the next CAs of the rotations that were called off.
pub(crate) fn next_action(rotation: &Rotation, called_off: &[Fingerprint], own: &Own<'_>) -> RotationAction {
    let Rotation { former, next, step, .. } = rotation;
    let trusts = |authority| own.trusts.contains(authority);
    let has_key = |authority| own.keys.is_some_and(|keys| keys.contains(authority));
    let told = |step| own.reported.is_some_and(|reported| reported >= step);
    // First of all, so that the link to the former CA is not shown yet: forgetting a CA ends that.
    let ends_here = (*step == RotationStep::CalledOff).then_some(next);
    for gone in called_off.iter().chain(ends_here).filter(|gone| **gone != own.shows) {
        if trusts(gone) {
            return RotationAction::Forget(*gone);
        }
        if has_key(gone) {
            return RotationAction::DropKey(*gone);
        }
    }
    if *step == RotationStep::CalledOff {
        return RotationAction::Nothing;
    }
    if !trusts(next) {
        return if trusts(former) { RotationAction::Trust } else { RotationAction::Nothing };
    }
    if own.keys.is_some() && !has_key(next) {
        return RotationAction::FetchKey;
    }
    if *step >= RotationStep::Show && own.shows != *next {
        return RotationAction::Show;
    }
    if *step >= RotationStep::Drop {
        if trusts(former) || own.linked {
            return RotationAction::Forget(*former);
        }
        if has_key(former) {
            return RotationAction::DropKey(*former);
        }
    }
    match step {
        RotationStep::Trust | RotationStep::Show | RotationStep::Drop if !told(*step) => {
            RotationAction::Report(*step)
        }
        _ => RotationAction::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const F: Fingerprint = [1; 32];
    const N: Fingerprint = [2; 32];
    const X: Fingerprint = [3; 32];

    fn at(step: RotationStep) -> Rotation {
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

    // RotationStep of the cluster, trusted CAs, signing CA, link, keys, reported step; expected action.
    type Keys = Option<&'static [Fingerprint]>;
    type Case<'a> =
        (RotationStep, &'a [Fingerprint], Fingerprint, bool, Keys, Option<RotationStep>, RotationAction);

    #[test]
    fn each_step_brings_what_is_missing_and_nothing_goes_back() {
        use RotationStep::{CalledOff, Drop, Over, Show, Trust};
        let both: &[Fingerprint] = &[F, N];
        let cases: [Case<'_>; 29] = [
            // A node, from the beginning to the end.
            (Trust, &[F], F, false, Some(&[F]), None, RotationAction::Trust),
            (Trust, both, F, false, Some(&[F]), None, RotationAction::FetchKey),
            (Trust, both, F, false, Some(&[F, N]), None, RotationAction::Report(Trust)),
            (Trust, both, F, false, Some(&[F, N]), Some(Trust), RotationAction::Nothing),
            (Show, both, F, false, Some(&[F, N]), Some(Trust), RotationAction::Show),
            (Show, both, N, true, Some(&[F, N]), Some(Trust), RotationAction::Report(Show)),
            (Show, both, N, true, Some(&[F, N]), Some(Show), RotationAction::Nothing),
            (Drop, both, N, true, Some(&[F, N]), Some(Show), RotationAction::Forget(F)),
            (Drop, &[N], N, false, Some(&[F, N]), Some(Show), RotationAction::DropKey(F)),
            (Drop, &[N], N, false, Some(&[N]), Some(Show), RotationAction::Report(Drop)),
            (Over, &[N], N, false, Some(&[N]), Some(Drop), RotationAction::Nothing),
            // A witness has no keys.
            (Trust, &[F], F, false, None, None, RotationAction::Trust),
            (Trust, both, F, false, None, None, RotationAction::Report(Trust)),
            (Show, both, F, false, None, Some(Trust), RotationAction::Show),
            (Drop, both, N, true, None, Some(Show), RotationAction::Forget(F)),
            (Drop, &[N], N, true, None, Some(Show), RotationAction::Forget(F)),
            (Drop, &[N], N, false, None, Some(Show), RotationAction::Report(Drop)),
            // A member that returns late, or has just joined, does everything in one sequence.
            (Drop, &[F], F, false, Some(&[F]), None, RotationAction::Trust),
            (Over, both, F, false, Some(&[F, N]), None, RotationAction::Show),
            (Drop, &[N], N, false, Some(&[N]), None, RotationAction::Report(Drop)),
            // Log replay: a member that finished the rotation does nothing.
            (Trust, &[N], N, false, Some(&[N]), Some(Trust), RotationAction::Nothing),
            (Trust, both, N, true, Some(&[F, N]), Some(Trust), RotationAction::Nothing),
            (Trust, &[X], X, false, Some(&[X]), None, RotationAction::Nothing),
            (Over, &[X], X, false, Some(&[X]), None, RotationAction::Nothing),
            // Called off.
            (CalledOff, both, F, false, Some(&[F, N]), Some(Trust), RotationAction::Forget(N)),
            (CalledOff, &[F], F, false, Some(&[F, N]), Some(Trust), RotationAction::DropKey(N)),
            (CalledOff, &[F], F, false, Some(&[F]), Some(Trust), RotationAction::Nothing),
            (CalledOff, &[F, X], F, false, Some(&[F, X]), None, RotationAction::Nothing),
            (CalledOff, both, N, true, Some(&[F, N]), None, RotationAction::Nothing),
        ];
        for (step, trusts, shows, linked, keys, reported, expected) in cases {
            let own = Own { trusts, shows, linked, keys, reported };
            assert_eq!(next_action(&at(step), &[], &own), expected, "{step:?}: {own:?}");
        }
    }

    #[test]
    fn a_member_that_missed_a_call_off_forgets_that_ca_in_the_next_rotation() {
        use RotationStep::{Show, Trust};
        let cases: [(RotationStep, &[Fingerprint], Keys, RotationAction); 5] = [
            (Trust, &[F, X], Some(&[F, X]), RotationAction::Forget(X)),
            (Trust, &[F], Some(&[F, X]), RotationAction::DropKey(X)),
            (Trust, &[F], Some(&[F]), RotationAction::Trust),
            (Show, &[F, X], None, RotationAction::Forget(X)),
            (Show, &[F], None, RotationAction::Trust),
        ];
        for (step, trusts, keys, expected) in cases {
            let own = Own { trusts, shows: F, linked: false, keys, reported: None };
            assert_eq!(next_action(&at(step), &[X], &own), expected, "{step:?}: {own:?}");
        }
        // Log replay: the CA that a member shows is in use, whatever the log says so far.
        let own = Own { trusts: &[X], shows: X, linked: false, keys: Some(&[X]), reported: None };
        assert_eq!(next_action(&at(Trust), &[X], &own), RotationAction::Nothing);
    }
}
