//! Concurrent attempts over one route: a receiver that hangs holds a part of a duty's attempts, and the others stay for
//! the other routes.

use std::collections::{BTreeSet, HashMap};

use twinbox_ids::{EffectId, Timestamp};

/// Most concurrent attempts over a route, of the 32 of a duty ([`Limits`](crate::Limits)): most sites have one smarthost.
pub(crate) const MOST: usize = 28;
/// Most concurrent attempts over a route whose receiver was not reached by the latest.
pub(crate) const MOST_UNREACHED: usize = 4;

/// Attempts under way, by route, and the effects that wait for the end of one.
#[derive(Debug, Default)]
pub(crate) struct RouteSlots {
    routes: HashMap<String, Load>,
    /// Effects that waited, and whose turn has come.
    freed: Vec<EffectId>,
}

#[derive(Debug, Default)]
struct Load {
    /// Attempts under way.
    active: usize,
    /// Effects by time.
    waiting: BTreeSet<(Timestamp, EffectId)>,
}

impl Load {
    fn free(&mut self, count: usize, freed: &mut Vec<EffectId>) {
        freed.extend((0..count).map_while(|_| self.waiting.pop_first()).map(|(_, effect)| effect));
    }
}

impl RouteSlots {
    /// Begins an attempt, unless `most` are under way.
    pub fn begin(&mut self, route: &str, most: usize) -> bool {
        if self.active(route) >= most {
            return false;
        }
        self.routes.entry(route.to_owned()).or_default().active += 1;
        true
    }

    /// Ends an attempt. The next effect has its turn if fewer than `most` are under way then.
    pub fn end(&mut self, route: &str, most: usize) {
        let Some(load) = self.routes.get_mut(route) else { return };
        load.active = load.active.saturating_sub(1);
        load.free(most.saturating_sub(load.active).min(1), &mut self.freed);
        if load.active == 0 && load.waiting.is_empty() {
            self.routes.remove(route);
        }
    }

    /// Lets an effect wait for the end of an attempt; false if fewer than `most` are under way.
    pub fn wait(&mut self, route: &str, most: usize, effect: EffectId, due: Timestamp) -> bool {
        let is_full = self.active(route) >= most;
        if is_full {
            self.routes.entry(route.to_owned()).or_default().waiting.insert((due, effect));
        }
        is_full
    }

    /// Gives a turn to as many effects as each route has room for: one that had a turn may not have needed it any more,
    /// and a route that works again has more room.
    pub fn refill(&mut self, most: impl Fn(&str) -> usize) {
        for (route, load) in &mut self.routes {
            load.free(most(route).saturating_sub(load.active), &mut self.freed);
        }
        self.routes.retain(|_, load| load.active > 0 || !load.waiting.is_empty());
    }

    /// The effects whose turn has come, once.
    pub fn freed(&mut self) -> Vec<EffectId> {
        std::mem::take(&mut self.freed)
    }

    /// Forgets what waits. Attempts under way stay until their end.
    pub fn forget(&mut self) {
        self.freed.clear();
        self.routes.values_mut().for_each(|load| load.waiting.clear());
        self.routes.retain(|_, load| load.active > 0);
    }

    fn active(&self, route: &str) -> usize {
        self.routes.get(route).map_or(0, |load| load.active)
    }
}
