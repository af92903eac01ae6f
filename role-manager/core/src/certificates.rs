//! What the cluster agrees on about certificates: how far the replacement of its authority has come on each member,
//! and which operators may come from other machines.
//!
//! It is agreed here because who is a member is agreed here: nobody may be forgotten when the old authority goes, also
//! not somebody who joins at that moment. Public things only: no key is in this state, which a witness holds too.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use twinbox_ids::NodeName;

use crate::{Outcome, Refusal, State};

/// The longest certificate that is taken, in bytes of PEM.
const LONGEST_CERTIFICATE: usize = 8 * 1024;
/// The most operators at once.
const MOST_OPERATORS: usize = 256;

/// SHA-256 of a certificate.
pub type Fingerprint = [u8; 32];

/// Authority and operators, as agreed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Certificates {
    /// The replacement of the authority that is going on, else the last one; none if there never was one.
    pub rotation: Option<Rotation>,
    /// Who may administrate from another machine.
    #[serde(default)]
    pub operators: BTreeMap<NodeName, Operator>,
}

/// What members do one after the other when the authority is replaced. Everybody does a step before anybody does the
/// next, so that at every moment each member accepts what every other shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Accept certificates of both authorities; nodes also keep the next one's key.
    Trust,
    /// Show a certificate of the next one.
    Show,
    /// Accept certificates of the next one alone, and forget the former's key.
    Drop,
    /// Nothing: it is done.
    Over,
    /// Go back to the former one alone: an administrator has called it off.
    CalledOff,
}

impl Step {
    /// As people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trust => "trust",
            Self::Show => "show",
            Self::Drop => "drop",
            Self::Over => "over",
            Self::CalledOff => "called-off",
        }
    }

    /// Whether nobody has anything left to do.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Over | Self::CalledOff)
    }
}

/// One replacement of the authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// The authority that goes.
    pub former: Fingerprint,
    /// The authority that comes.
    pub next: Fingerprint,
    /// Its certificate, signed by itself, as PEM.
    pub certificate: String,
    /// Its certificate, signed by the former, as PEM: who knows the former alone can check the next with it.
    pub cross: String,
    /// The node on which it was begun.
    pub by: NodeName,
    /// When, in milliseconds since 1970 by the clock of that node.
    pub begun_ms: u64,
    /// What is being done.
    pub step: Step,
    /// The last step that each member has done.
    pub done: BTreeMap<NodeName, Step>,
    /// Who is configured and was no member when it began.
    pub expected: BTreeSet<NodeName>,
    /// Who is not waited for, by an administrator's word.
    pub without: BTreeSet<NodeName>,
}

/// Who may administrate from another machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// The certificate.
    pub certificate: Fingerprint,
    /// The authority that signed it.
    pub authority: Fingerprint,
    /// When it was made, and when it ends, in milliseconds since 1970.
    pub made_ms: u64,
    /// See there.
    pub ends_ms: u64,
    /// Who made it: the node, and the operator who asked it, if one did.
    pub by: String,
}

/// Orders about certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateOrder {
    /// Begin to replace the authority. Step, done and without are the state's to fill.
    Begin(Box<Rotation>),
    /// A member has done a step of the rotation to that authority.
    Did {
        /// Who.
        name: NodeName,
        /// To which authority.
        next: Fingerprint,
        /// What.
        step: Step,
    },
    /// Do not wait for this member any longer.
    Without(NodeName),
    /// Call the rotation off, as long as nobody shows a certificate of the next authority.
    CallOff,
    /// Let this operator in.
    Admit {
        /// The operator's name.
        name: NodeName,
        /// The rest.
        operator: Operator,
        /// The clock of the node that made the certificate.
        now_ms: u64,
    },
    /// Let this operator in no longer.
    Dismiss(NodeName),
}

impl CertificateOrder {
    /// The member that alone may give this order, if it is one's own affair.
    pub fn speaks_for(&self) -> Option<&NodeName> {
        match self {
            Self::Did { name, .. } => Some(name),
            _ => None,
        }
    }
}

/// Why an order about certificates was refused, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateRefusal {
    /// One at a time.
    #[error("the authority is being replaced already; 'twinbox cluster ca status' shows for whom it waits")]
    Busy,
    /// It was begun on a node that is behind.
    #[error(
        "this node still signs with an authority that was replaced; try again when 'twinbox cluster ca status' shows it up to date, or on another node"
    )]
    Former,
    /// Nothing is going on.
    #[error("the authority is not being replaced now: there is nothing to be called off or waited for")]
    Idle,
    /// It cannot be undone any more.
    #[error(
        "members show certificates of the next authority already: it cannot be called off any more, but goes on by itself; 'twinbox cluster ca rotate --without NAME' goes on without a member"
    )]
    TooLate,
    /// It is not waited for.
    #[error("'{name}' is not waited for; waited for: {waited}")]
    NotAwaited {
        /// Who was named.
        name: NodeName,
        /// Who is, separated by commas.
        waited: String,
    },
    /// A certificate is too long.
    #[error("a certificate of {bytes} bytes is longer than the {LONGEST_CERTIFICATE} that are taken")]
    TooLong {
        /// How long it is.
        bytes: u64,
    },
    /// The name is taken.
    #[error(
        "operator '{name}' has a certificate that has not ended: choose another name, or end that one first with 'twinbox cluster operator-revoke {name}'"
    )]
    OperatorExists {
        /// The name.
        name: NodeName,
    },
    /// Too many.
    #[error("there are {MOST_OPERATORS} operators: end some with 'twinbox cluster operator-revoke NAME'")]
    TooManyOperators,
    /// Nobody has the name.
    #[error("there is no operator '{name}'; there are: {known}")]
    NoOperator {
        /// The name.
        name: NodeName,
        /// Who there is, separated by commas.
        known: String,
    },
}

impl Rotation {
    /// What it is to be when it begins.
    fn begin(self) -> Self {
        Self { step: Step::Trust, done: BTreeMap::new(), without: BTreeSet::new(), ..self }
    }

    /// Whether this member has done the step, or a later one.
    pub fn has_done(&self, name: &NodeName, step: Step) -> bool {
        self.done.get(name).is_some_and(|done| *done >= step)
    }
}

/// The step that comes next: the first that not everybody who counts has done. It never goes back, also not when
/// somebody joins who has done nothing yet.
pub fn step_after(step: Step, done: &[Option<Step>]) -> Step {
    let all = |step| done.iter().all(|done| done.is_some_and(|done| done >= step));
    let mut step = step;
    loop {
        step = match step {
            Step::Trust if all(Step::Trust) => Step::Show,
            Step::Show if all(Step::Show) => Step::Drop,
            Step::Drop if all(Step::Drop) => Step::Over,
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

    /// Whether this certificate is an operator's whom the cluster lets in, at this moment of the wall clock.
    pub fn lets_in(&self, name: &NodeName, certificate: &Fingerprint, now_ms: u64) -> bool {
        let operator = self.certificates.operators.get(name);
        operator.is_some_and(|operator| operator.certificate == *certificate && now_ms < operator.ends_ms)
    }

    fn counted<'a>(&'a self, rotation: &'a Rotation) -> BTreeSet<&'a NodeName> {
        let known = self.known().map(|(name, ..)| name);
        known.chain(&rotation.expected).filter(|name| !rotation.without.contains(*name)).collect()
    }

    /// After each command: whoever came, went or did something may have been the one waited for.
    pub(crate) fn advance_rotation(&mut self) {
        let Some(rotation) = &self.certificates.rotation else { return };
        if rotation.step.is_end() {
            return;
        }
        let done: Vec<_> =
            self.counted(rotation).into_iter().map(|name| rotation.done.get(name).copied()).collect();
        let step = step_after(rotation.step, &done);
        // Who has come is counted as a member from now on, and no more once it is removed.
        let come: Vec<_> = rotation.expected.iter().filter(|n| self.members.contains_key(*n)).cloned().collect();
        let Some(rotation) = &mut self.certificates.rotation else { return };
        rotation.expected.retain(|name| !come.contains(name));
        if rotation.step != step {
            rotation.step = step;
            if step >= Step::Drop {
                let next = rotation.next;
                self.certificates.operators.retain(|_, operator| operator.authority == next);
            }
        }
    }

    pub(crate) fn certify(&mut self, order: CertificateOrder) -> Outcome {
        match self.try_certify(order) {
            Ok(true) => Outcome::Done,
            Ok(false) => Outcome::Unchanged,
            Err(refusal) => Outcome::Refused(Refusal::Certificates(refusal)),
        }
    }

    fn try_certify(&mut self, order: CertificateOrder) -> Result<bool, CertificateRefusal> {
        match order {
            CertificateOrder::Begin(rotation) => self.begin(*rotation),
            CertificateOrder::Did { name, next, step } => {
                let known = self.known().any(|(known, ..)| *known == name);
                // What was called off, or is over, is nobody's step.
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
                    Step::Trust => rotation.step = Step::CalledOff,
                    Step::CalledOff => return Ok(false),
                    Step::Over => return Err(CertificateRefusal::Idle),
                    Step::Show | Step::Drop => return Err(CertificateRefusal::TooLate),
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
            Some(last) if last.step == Step::Over && last.next != rotation.former => {
                return Err(CertificateRefusal::Former);
            }
            Some(last) if last.step == Step::CalledOff && last.former != rotation.former => {
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
