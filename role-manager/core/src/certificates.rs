//! Agreed state of certificates: the progress of the CA rotation on each member, and the operators admitted from other
//! machines.
//!
//! It is agreed here because membership is agreed here: no member may be missed when the old CA is dropped, not even
//! one that joins at that moment. Public data only: the state holds no key, since a witness holds it too.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use twinbox_ids::NodeName;

use crate::{CommandOutcome, Refusal, State};

/// The longest accepted certificate, in bytes of PEM.
const LONGEST_CERTIFICATE: usize = 8 * 1024;
/// Maximum number of operators.
const MOST_OPERATORS: usize = 256;
/// Maximum number of called-off CAs that are remembered: more than a member misses while it is away.
const MOST_CALLED_OFF: usize = 32;

/// SHA-256 of a certificate.
pub type Fingerprint = [u8; 32];

/// CA and operators, as agreed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Certificates {
    /// The current CA rotation, else the last one; none if there never was one.
    pub rotation: Option<Rotation>,
    /// Operators that may administrate from another machine, by name.
    #[serde(default)]
    pub operators: BTreeMap<NodeName, Operator>,
    /// Next CAs of rotations that were called off, the newest last, at most [`MOST_CALLED_OFF`]. A member that was away
    /// while a rotation was called off and another began finds here the CA that it must not keep.
    #[serde(default)]
    pub called_off: Vec<Fingerprint>,
}

/// Steps of the members in a CA rotation. All members do a step before any member does the next, so that each member
/// always accepts the certificates of all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RotationStep {
    /// Accept certificates of both CAs; nodes also store the next CA's key.
    Trust,
    /// Present a certificate of the next CA.
    Show,
    /// Accept only certificates of the next CA, and delete the former CA's key.
    Drop,
    /// Done, no action.
    Over,
    /// Go back to the former CA alone: an administrator has called the rotation off.
    CalledOff,
}

impl RotationStep {
    /// Name for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trust => "trust",
            Self::Show => "show",
            Self::Drop => "drop",
            Self::Over => "over",
            Self::CalledOff => "called-off",
        }
    }

    /// Whether no member has anything left to do.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Over | Self::CalledOff)
    }
}

/// One CA rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// The former CA.
    pub former: Fingerprint,
    /// The next CA.
    pub next: Fingerprint,
    /// Self-signed certificate of the next CA, as PEM.
    pub certificate: String,
    /// Certificate of the next CA signed by the former, as PEM: a member that knows only the former can verify the
    /// next.
    pub cross: String,
    /// The node on which the rotation began.
    pub by: NodeName,
    /// Time of its beginning by the clock of that node, in milliseconds since 1970.
    pub begun_ms: u64,
    /// The current step.
    pub step: RotationStep,
    /// The last step done by each member.
    pub done: BTreeMap<NodeName, RotationStep>,
    /// Configured names that were no members when it began.
    pub expected: BTreeSet<NodeName>,
    /// Members excluded from waiting by an administrator.
    pub without: BTreeSet<NodeName>,
}

/// An operator that may administrate from another machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// Fingerprint of its certificate.
    pub certificate: Fingerprint,
    /// Fingerprint of the CA that signed it.
    pub authority: Fingerprint,
    /// Start of its validity, in milliseconds since 1970.
    pub made_ms: u64,
    /// End of its validity, in milliseconds since 1970.
    pub ends_ms: u64,
    /// Node that issued the certificate, and the operator that requested it, if any.
    pub by: String,
}

/// Orders about certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateOrder {
    /// Begin a CA rotation. The state sets step, done and without.
    Begin(Box<Rotation>),
    /// A member has done a step of the rotation to that CA.
    Did {
        /// Name of the member.
        name: NodeName,
        /// Fingerprint of the next CA.
        next: Fingerprint,
        /// The step done.
        step: RotationStep,
    },
    /// Stop waiting for this member.
    Without(NodeName),
    /// Call the rotation off, as long as no member presents a certificate of the next CA.
    CallOff,
    /// Admit this operator.
    Admit {
        /// The operator's name.
        name: NodeName,
        /// Its certificate and validity.
        operator: Operator,
        /// Clock of the node that issued the certificate, in milliseconds since 1970.
        now_ms: u64,
    },
    /// Revoke this operator.
    Dismiss(NodeName),
}

impl CertificateOrder {
    /// The only member that may give this order, if the order reports on that member itself.
    pub fn reporter(&self) -> Option<&NodeName> {
        match self {
            Self::Did { name, .. } => Some(name),
            _ => None,
        }
    }
}

/// Refusal of an order about certificates, with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateRefusal {
    /// A rotation is going on already.
    #[error("a CA rotation is in progress; 'twinbox cluster ca status' lists the members that it waits for")]
    Busy,
    /// The rotation was begun on a node that is behind.
    #[error(
        "this node still signs with a replaced CA; retry when 'twinbox cluster ca status' shows it up to date, or on another node"
    )]
    Former,
    /// No rotation is going on.
    #[error("no CA rotation is in progress")]
    Idle,
    /// The rotation cannot be called off any more.
    #[error(
        "members already present certificates of the next CA: the rotation cannot be called off and continues automatically; continue without a member with 'twinbox cluster ca rotate --without NAME'"
    )]
    TooLate,
    /// The rotation does not wait for this member.
    #[error("the CA rotation does not wait for '{name}'; it waits for: {waited}")]
    NotAwaited {
        /// The requested name.
        name: NodeName,
        /// Names of the members that it waits for, separated by commas.
        waited: String,
    },
    /// A certificate is too long.
    #[error("a certificate of {bytes} bytes is too long; the maximum is {LONGEST_CERTIFICATE} bytes")]
    TooLong {
        /// Its length, in bytes.
        bytes: u64,
    },
    /// An operator of this name has a valid certificate.
    #[error(
        "operator '{name}' has a valid certificate: choose another name, or revoke it first with 'twinbox cluster operator-revoke {name}'"
    )]
    OperatorExists {
        /// Name of the operator.
        name: NodeName,
    },
    /// Too many operators.
    #[error(
        "there are already {MOST_OPERATORS} operators: revoke some with 'twinbox cluster operator-revoke NAME'"
    )]
    TooManyOperators,
    /// No operator has this name.
    #[error("there is no operator '{name}'; the operators are: {known}")]
    NoOperator {
        /// The requested name.
        name: NodeName,
        /// Names of the operators, separated by commas.
        known: String,
    },
}

impl Rotation {
    /// The rotation as it begins.
    fn begin(self) -> Self {
        Self { step: RotationStep::Trust, done: BTreeMap::new(), without: BTreeSet::new(), ..self }
    }

    /// Whether this member has done the step, or a later one.
    pub fn has_done(&self, name: &NodeName, step: RotationStep) -> bool {
        self.done.get(name).is_some_and(|done| *done >= step)
    }
}

/// The next step: the first that not all counted members have done. It never goes back, not even when a member joins
/// that has done nothing yet.
pub fn step_after(step: RotationStep, done: &[Option<RotationStep>]) -> RotationStep {
    let all = |step| done.iter().all(|done| done.is_some_and(|done| done >= step));
    let mut step = step;
    loop {
        step = match step {
            RotationStep::Trust if all(RotationStep::Trust) => RotationStep::Show,
            RotationStep::Show if all(RotationStep::Show) => RotationStep::Drop,
            RotationStep::Drop if all(RotationStep::Drop) => RotationStep::Over,
            step => return step,
        }
    }
}

impl State {
    /// Members for whom the rotation waits now.
    pub fn awaited(&self) -> Vec<NodeName> {
        let Some(rotation) = &self.certificates.rotation else { return Vec::new() };
        if rotation.step.is_end() {
            return Vec::new();
        }
        let waited = self.counted(rotation).into_iter().filter(|name| !rotation.has_done(name, rotation.step));
        waited.cloned().collect()
    }

    /// Whether this certificate belongs to an operator that the cluster admits at this time of the wall clock.
    pub fn admits_operator(&self, name: &NodeName, certificate: &Fingerprint, now_ms: u64) -> bool {
        let operator = self.certificates.operators.get(name);
        operator.is_some_and(|operator| operator.certificate == *certificate && now_ms < operator.ends_ms)
    }

    fn counted<'a>(&'a self, rotation: &'a Rotation) -> BTreeSet<&'a NodeName> {
        let known = self.known().map(|(name, ..)| name);
        known.chain(&rotation.expected).filter(|name| !rotation.without.contains(*name)).collect()
    }

    /// Advances the rotation after each command: any member that joined, left or did a step may have been the awaited
    /// one.
    pub(crate) fn advance_rotation(&mut self) {
        let Some(rotation) = &self.certificates.rotation else { return };
        if rotation.step.is_end() {
            return;
        }
        let done: Vec<_> =
            self.counted(rotation).into_iter().map(|name| rotation.done.get(name).copied()).collect();
        let step = step_after(rotation.step, &done);
        // A member that has joined counts as a member from now on, and no more once it is removed.
        let joined: Vec<_> = rotation.expected.iter().filter(|n| self.members.contains_key(*n)).cloned().collect();
        let Some(rotation) = &mut self.certificates.rotation else { return };
        rotation.expected.retain(|name| !joined.contains(name));
        if rotation.step != step {
            rotation.step = step;
            if step >= RotationStep::Drop {
                let next = rotation.next;
                self.certificates.operators.retain(|_, operator| operator.authority == next);
            }
        }
    }

    pub(crate) fn certify(&mut self, order: CertificateOrder) -> CommandOutcome {
        match self.try_certify(order) {
            Ok(true) => CommandOutcome::Done,
            Ok(false) => CommandOutcome::Unchanged,
            Err(refusal) => CommandOutcome::Refused(Refusal::Certificates(refusal)),
        }
    }

    fn try_certify(&mut self, order: CertificateOrder) -> Result<bool, CertificateRefusal> {
        match order {
            CertificateOrder::Begin(rotation) => self.begin(*rotation),
            CertificateOrder::Did { name, next, step } => {
                let known = self.known().any(|(known, ..)| *known == name);
                // A rotation that was called off or has ended accepts no step.
                let known = known && !step.is_end();
                let rotation = self.certificates.rotation.as_mut().filter(|r| r.next == next && known);
                let Some(rotation) = rotation else { return Ok(false) };
                let changed = rotation.done.get(&name) < Some(&step);
                if changed {
                    rotation.done.insert(name, step);
                }
                Ok(changed)
            }
            CertificateOrder::Without(name) => {
                let waited = self.awaited();
                let rotation = self.certificates.rotation.as_mut().filter(|rotation| !rotation.step.is_end());
                let rotation = rotation.ok_or(CertificateRefusal::Idle)?;
                if rotation.without.contains(&name) {
                    return Ok(false);
                }
                if !waited.contains(&name) {
                    return Err(CertificateRefusal::NotAwaited { name, waited: listed(&waited) });
                }
                Ok(rotation.without.insert(name))
            }
            CertificateOrder::CallOff => {
                let rotation = self.certificates.rotation.as_mut().ok_or(CertificateRefusal::Idle)?;
                match rotation.step {
                    RotationStep::Trust => {
                        rotation.step = RotationStep::CalledOff;
                        let called_off = &mut self.certificates.called_off;
                        called_off.push(rotation.next);
                        let surplus = called_off.len().saturating_sub(MOST_CALLED_OFF);
                        called_off.drain(..surplus);
                    }
                    RotationStep::CalledOff => return Ok(false),
                    RotationStep::Over => return Err(CertificateRefusal::Idle),
                    RotationStep::Show | RotationStep::Drop => return Err(CertificateRefusal::TooLate),
                }
                Ok(true)
            }
            CertificateOrder::Admit { name, operator, now_ms } => {
                let operators = &mut self.certificates.operators;
                operators.retain(|_, known| known.ends_ms > now_ms);
                match operators.get(&name) {
                    Some(known) if *known == operator => return Ok(false),
                    Some(_) => return Err(CertificateRefusal::OperatorExists { name }),
                    None if operators.len() >= MOST_OPERATORS => return Err(CertificateRefusal::TooManyOperators),
                    None => operators.insert(name, operator),
                };
                Ok(true)
            }
            CertificateOrder::Dismiss(name) => {
                let operators = &mut self.certificates.operators;
                if operators.remove(&name).is_some() {
                    return Ok(true);
                }
                let known = listed(&operators.keys().cloned().collect::<Vec<_>>());
                Err(CertificateRefusal::NoOperator { name, known })
            }
        }
    }

    fn begin(&mut self, rotation: Rotation) -> Result<bool, CertificateRefusal> {
        for pem in [&rotation.certificate, &rotation.cross] {
            if pem.len() > LONGEST_CERTIFICATE {
                return Err(CertificateRefusal::TooLong { bytes: pem.len() as u64 });
            }
        }
        match &self.certificates.rotation {
            Some(last) if last.next == rotation.next => return Ok(false),
            Some(last) if !last.step.is_end() => return Err(CertificateRefusal::Busy),
            Some(last) if last.step == RotationStep::Over && last.next != rotation.former => {
                return Err(CertificateRefusal::Former);
            }
            Some(last) if last.step == RotationStep::CalledOff && last.former != rotation.former => {
                return Err(CertificateRefusal::Former);
            }
            _ => {}
        }
        self.certificates.rotation = Some(rotation.begin());
        Ok(true)
    }
}

fn listed(names: &[NodeName]) -> String {
    match names {
        [] => "nobody".to_owned(),
        names => names.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", "),
    }
}
