//! Execution of administrators' orders.

use twinbox_ids::NodeName;

use crate::{
    CALL_CAUSE_LEVEL, Cause, CommandOutcome, Duty, Failback, Member, MemberKind, MoveReason, Order, Refusal,
    Setting, Sign, State, Status, orders::Facts, report::FAR_BEHIND, rule_for,
};

/// Permitted lease lengths, in milliseconds.
const LEASE_MS: std::ops::RangeInclusive<u64> = 200..=60_000;

impl State {
    pub(crate) fn operate(&mut self, order: Order) -> Result<CommandOutcome, Refusal> {
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
                Ok(if before == Some(to) { CommandOutcome::Unchanged } else { CommandOutcome::Done })
            }
            Order::Unpin(duty) => match self.settings.pins.remove(&duty) {
                Some(_) => Ok(CommandOutcome::Done),
                None => Err(Refusal::NotPinned { duty }),
            },
            Order::Set(changes) => self.set(changes),
            Order::Remove { name, lost, within_ms, facts } => self.remove(&name, lost, within_ms, facts),
            Order::Invite { token, kind, valid_ms, replaces, facts } => {
                self.invite(token, kind, valid_ms, replaces, facts)
            }
            Order::Redeem { token, name, kind, address, key, feature_levels, facts } => {
                if !feature_levels.supports(self.feature_level) {
                    let (min, max, level) = (feature_levels.min, feature_levels.max, self.feature_level);
                    return Err(Refusal::FeatureLevel { min, max, level });
                }
                self.redeem(token, &name, kind, &address, key, facts)
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
    ) -> Result<CommandOutcome, Refusal> {
        self.node(&name)?;
        let rule = rule_for(Sign::Ordered);
        // Calls have their own switch: `force-failover-on-call`.
        if cause != Cause::Call && !rule.is_on(&self.settings) {
            return Err(Refusal::OperatorOff);
        }
        self.in_service(&name)?;
        if self.publisher() == Some(&name) || !rule.moves_a_serving_publisher() {
            return Ok(CommandOutcome::Unchanged);
        }
        if facts.behind > FAR_BEHIND && !force {
            return Err(Refusal::FarBehind { name, behind: facts.behind });
        }
        self.placed.clear();
        self.publish(name, MoveReason { cause, at_ms: facts.at_ms, idle_ms: 0 });
        Ok(CommandOutcome::Done)
    }

    fn move_duty(&mut self, duty: Duty, to: NodeName) -> Result<CommandOutcome, Refusal> {
        self.in_service(&to)?;
        if let Some(pin) = self.settings.pins.get(&duty).filter(|pin| **pin != to) {
            return Err(Refusal::Pinned { duty, to: pin.clone() });
        }
        let before = self.placed.insert(duty, to.clone());
        let there = self.duties.get(&duty).is_some_and(|a| a.epoch.node == to);
        Ok(if before == Some(to) || there { CommandOutcome::Unchanged } else { CommandOutcome::Done })
    }

    /// Makes all of the changes or none.
    fn set(&mut self, changes: Vec<Setting>) -> Result<CommandOutcome, Refusal> {
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
        if let Some(lease_timing) =
            next.lease_timing().filter(|lease_timing| !LEASE_MS.contains(&lease_timing.lease_ms()))
        {
            let (lease_ms, answer_ms) = (lease_timing.lease_ms(), lease_timing.answer_ms);
            return Err(Refusal::Lease { lease_ms, answer_ms, least: *LEASE_MS.start(), most: *LEASE_MS.end() });
        }
        next.settle_leasing();
        if next.settings == self.settings {
            return Ok(CommandOutcome::Unchanged);
        }
        *self = next;
        Ok(CommandOutcome::Done)
    }

    fn set_activated(&mut self, name: &NodeName, activated: bool, drain_ms: Option<u64>) -> CommandOutcome {
        let Some(member) = self.members.get_mut(name) else { return CommandOutcome::Stale };
        if member.activated == activated {
            return member.drain_within(drain_ms);
        }
        member.activated = activated;
        member.drain_ms = drain_ms;
        (member.status, member.reason) = match activated {
            true => (Status::Starting, "it has just been activated".to_owned()),
            false => {
                let status = rule_for(Sign::Deactivated).status.unwrap_or(member.status);
                (status, "an administrator has deactivated it".to_owned())
            }
        };
        member.revision += 1;
        CommandOutcome::Done
    }
}
