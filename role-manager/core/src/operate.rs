//! Execution of administrators' orders.

use twinbox_ids::NodeName;

use crate::{
    CALL_CAUSE_LEVEL, Cause, Duty, Failback, Member, MemberKind, Order, Outcome, Refusal, Setting, State, Status,
    Trigger, Why, orders::Facts, report::FAR_BEHIND,
};

/// Permitted lease lengths, in milliseconds.
const LEASE_MS: std::ops::RangeInclusive<u64> = 200..=60_000;

impl State {
    pub(crate) fn operate(&mut self, order: Order) -> Result<Outcome, Refusal> {
        match order {
            Order::MakePublisher { name, force, on_call, facts } => {
                let call = on_call && self.feature_level >= CALL_CAUSE_LEVEL;
                self.make_publisher(name, force, facts, if call { Cause::Call } else { Cause::Operator })
            }
            Order::Failback { facts } => {
                if self.settings.failback == Failback::None {
                    return Err(Refusal::NoFailback);
                }
                let to = self.settings.preferred.clone().ok_or(Refusal::NoPreferred)?;
                self.make_publisher(to, false, facts, Cause::Failback)
            }
            Order::Activate(name) => {
                let member = self.node(&name)?;
                match member.status {
                    Status::Leaving => Err(Refusal::Leaving { name }),
                    _ => Ok(self.set_activated(&name, true, None)),
                }
            }
            Order::Deactivate { name, within_ms } => {
                let member = self.node(&name)?;
                match member.activated && !self.leaves_another(&name, member) {
                    true => Err(Refusal::LastInService { name }),
                    false => Ok(self.set_activated(&name, false, within_ms)),
                }
            }
            Order::MoveDuty { duty, to } => self.move_duty(duty, to),
            Order::Pin { duty, to } => {
                self.node(&to)?;
                let before = self.settings.pins.insert(duty, to.clone());
                Ok(if before == Some(to) { Outcome::Unchanged } else { Outcome::Done })
            }
            Order::Unpin(duty) => match self.settings.pins.remove(&duty) {
                Some(_) => Ok(Outcome::Done),
                None => Err(Refusal::NotPinned { duty }),
            },
            Order::Set(changes) => self.set(changes),
            Order::Remove { name, lost, within_ms, facts } => self.remove(&name, lost, within_ms, facts),
            Order::Invite { token, kind, valid_ms, replaces, facts } => {
                self.invite(token, kind, valid_ms, replaces, facts)
            }
            Order::Redeem { token, name, kind, address, key, speaks, facts } => {
                if !speaks.knows(self.feature_level) {
                    let (min, max, level) = (speaks.min, speaks.max, self.feature_level);
                    return Err(Refusal::FeatureLevel { min, max, level });
                }
                self.redeem(token, &name, kind, &address, key, facts.at_ms)
            }
            Order::Certificates(order) => Ok(self.certify(order)),
        }
    }

    /// The node of this name; refused for witnesses and unknown members.
    fn node(&self, name: &NodeName) -> Result<&Member, Refusal> {
        let member = self.known_member(name)?;
        match member.kind {
            MemberKind::Witness => Err(Refusal::Witness { name: name.clone() }),
            MemberKind::Node => Ok(member),
        }
    }

    fn in_service(&self, name: &NodeName) -> Result<(), Refusal> {
        let member = self.node(name)?;
        let (name, status, reason) = (name.clone(), member.status, member.reason.clone());
        match status {
            Status::Leaving => Err(Refusal::Leaving { name }),
            _ if !member.activated => Err(Refusal::Deactivated { name }),
            Status::InService => Ok(()),
            _ => Err(Refusal::NotInService { name, status, reason }),
        }
    }

    fn make_publisher(
        &mut self,
        name: NodeName,
        force: bool,
        facts: Facts,
        cause: Cause,
    ) -> Result<Outcome, Refusal> {
        self.node(&name)?;
        // Calls have their own switch: `force-failover-on-call`.
        if cause != Cause::Call && !self.settings.is_on(Trigger::Operator) {
            return Err(Refusal::OperatorOff);
        }
        self.in_service(&name)?;
        if self.publisher() == Some(&name) {
            return Ok(Outcome::Unchanged);
        }
        if facts.behind > FAR_BEHIND && !force {
            return Err(Refusal::FarBehind { name, behind: facts.behind });
        }
        self.placed.clear();
        self.publish(name, Why { cause, at_ms: facts.at_ms, idle_ms: 0 });
        Ok(Outcome::Done)
    }

    fn move_duty(&mut self, duty: Duty, to: NodeName) -> Result<Outcome, Refusal> {
        self.in_service(&to)?;
        if let Some(pin) = self.settings.pins.get(&duty).filter(|pin| **pin != to) {
            return Err(Refusal::Pinned { duty, to: pin.clone() });
        }
        let before = self.placed.insert(duty, to.clone());
        let there = self.duties.get(&duty).is_some_and(|a| a.epoch.node == to);
        Ok(if before == Some(to) || there { Outcome::Unchanged } else { Outcome::Done })
    }

    /// Makes all of the changes or none.
    fn set(&mut self, changes: Vec<Setting>) -> Result<Outcome, Refusal> {
        let mut next = self.clone();
        for change in changes {
            change.check().map_err(Refusal::Setting)?;
            let timing = matches!(change, Setting::KeepAlive(_) | Setting::Missed(_));
            if timing && self.leasing.is_none() {
                return Err(Refusal::NoTimingYet);
            }
            if let Setting::Preferred(Some(name)) = &change {
                self.node(name)?;
            }
            next.settings.put(change);
        }
        if matches!(next.settings.failback, Failback::Scheduled { .. }) && next.settings.preferred.is_none() {
            return Err(Refusal::ScheduleWithoutPreferred);
        }
        if let Some(pace) = next.pace().filter(|pace| !LEASE_MS.contains(&pace.lease_ms())) {
            let (lease_ms, answer_ms) = (pace.lease_ms(), pace.answer_ms);
            return Err(Refusal::Lease { lease_ms, answer_ms, least: *LEASE_MS.start(), most: *LEASE_MS.end() });
        }
        next.settle_leasing();
        if next.settings == self.settings {
            return Ok(Outcome::Unchanged);
        }
        *self = next;
        Ok(Outcome::Done)
    }

    fn set_activated(&mut self, name: &NodeName, activated: bool, drain_ms: Option<u64>) -> Outcome {
        let Some(member) = self.members.get_mut(name) else { return Outcome::Stale };
        if member.activated == activated {
            return member.drain_within(drain_ms);
        }
        member.activated = activated;
        member.drain_ms = drain_ms;
        (member.status, member.reason) = match activated {
            true => (Status::Starting, "it has just been activated".to_owned()),
            false => (Status::Deactivated, "an administrator has deactivated it".to_owned()),
        };
        member.revision += 1;
        Outcome::Done
    }
}
