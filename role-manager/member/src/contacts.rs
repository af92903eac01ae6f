//! Last contacts of a member with the others, by the local boot clock.

use std::{collections::BTreeMap, time::Duration};

use twinbox_ids::{Incarnation, NodeName};

/// Last contacts with the other members.
#[derive(Debug, Clone, Default)]
pub struct Contacts(BTreeMap<NodeName, LastContact>);

#[derive(Debug, Clone, Copy)]
struct LastContact {
    /// Time of the last contact.
    at: Duration,
    incarnation: Option<Incarnation>,
    /// The incarnation before that, and the last contact with it.
    before: Option<(Incarnation, Duration)>,
    /// Time of the last answer, and its round trip.
    answered: Option<(Duration, Duration)>,
}

impl LastContact {
    fn note_end(&mut self, incarnation: Incarnation) {
        if self.before.is_none_or(|(before, _)| before != incarnation) {
            self.before = Some((incarnation, self.at));
        }
    }
}

impl Contacts {
    /// Notes an authenticated message of a member, on any path; with its incarnation, if the message names it.
    pub fn note(&mut self, now: Duration, name: &NodeName, incarnation: Option<Incarnation>) {
        let Some(known) = self.0.get_mut(name) else {
            let first = LastContact { at: now, incarnation, before: None, answered: None };
            self.0.insert(name.clone(), first);
            return;
        };
        let is_other = |old: &Incarnation| incarnation.is_some_and(|incarnation| incarnation != *old);
        if let Some(old) = known.incarnation.filter(is_other) {
            known.note_end(old);
        }
        known.at = now;
        known.incarnation = incarnation.or(known.incarnation);
    }

    /// Notes an answer to a request that is answered immediately, and its round trip.
    pub fn note_answer(
        &mut self,
        now: Duration,
        name: &NodeName,
        incarnation: Option<Incarnation>,
        took: Duration,
    ) {
        self.note(now, name, incarnation);
        if let Some(known) = self.0.get_mut(name) {
            // One late answer is weak evidence: it counts a quarter.
            let smooth = known.answered.map_or(took, |(_, before)| (before * 3 + took) / 4);
            known.answered = Some((now, smooth));
        }
    }

    /// The end of this incarnation of a member is proved: later messages are no contact with it.
    pub fn note_exit(&mut self, name: &NodeName, incarnation: Incarnation) {
        if let Some(known) = self.0.get_mut(name).filter(|known| known.incarnation == Some(incarnation)) {
            known.note_end(incarnation);
        }
    }

    /// Time of the last contact with this member; `None` when there was none since the start.
    pub fn last(&self, name: &NodeName) -> Option<Duration> {
        self.0.get(name).map(|contact| contact.at)
    }

    /// Time of the last contact with exactly this incarnation of a member.
    pub fn last_with(&self, name: &NodeName, incarnation: Incarnation) -> Option<Duration> {
        let known = self.0.get(name)?;
        match known.before {
            Some((before, at)) if before == incarnation => Some(at),
            _ => (known.incarnation == Some(incarnation)).then_some(known.at),
        }
    }

    /// The incarnation of this member at the last contact.
    pub fn incarnation(&self, name: &NodeName) -> Option<Incarnation> {
        self.0.get(name).and_then(|contact| contact.incarnation)
    }

    /// Members that have answered within `within`, with their round trips.
    pub fn round_trips(&self, now: Duration, within: Duration) -> BTreeMap<NodeName, Duration> {
        let fresh = |contact: &LastContact| {
            contact.answered.filter(|(at, _)| now.saturating_sub(*at) <= within).map(|(_, took)| took)
        };
        self.0.iter().filter_map(|(name, contact)| Some((name.clone(), fresh(contact)?))).collect()
    }

    /// Whether this member has answered within `pause`.
    pub fn has_answered(&self, now: Duration, name: &NodeName, pause: Duration) -> bool {
        let answered = self.0.get(name).and_then(|contact| contact.answered);
        answered.is_some_and(|(at, _)| now.saturating_sub(at) < pause)
    }

    /// Forgets all but these members.
    pub fn retain(&mut self, is_member: impl Fn(&NodeName) -> bool) {
        self.0.retain(|name, _| is_member(name));
    }
}
