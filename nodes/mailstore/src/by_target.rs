//! Effects by target: a device's effects are found without a walk through the whole outbox.
//!
//! The first search reads the outbox once. After it, every durable change of an effect, made here or by a peer, is noted by
//! its id, and the next search reads those effects again.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use twinbox_ids::{DeviceId, EffectId};
use twinbox_outbox::{Effect, schema};
use twinbox_replication_core::Change;

use crate::{MailError, Mailstore, outbox::readable, work::blocking};

/// Maximum number of noted changes: with more, the index is dropped, and the next search reads the outbox again.
const MOST_CHANGED: usize = 50_000;

/// The index. A target may have ids of effects that were removed since: a reader leaves them out.
#[derive(Debug, Default)]
pub(crate) struct ByTarget {
    index: Mutex<Index>,
    /// Held by the search that updates the index.
    updating: Mutex<()>,
}

#[derive(Debug, Default)]
struct Index {
    /// The outbox was read, or is being read: changes since then are noted.
    noting: bool,
    /// That reading has ended.
    complete: bool,
    changed: HashSet<EffectId>,
    targets: HashMap<EffectId, DeviceId>,
    effects: HashMap<DeviceId, HashSet<EffectId>>,
}

impl ByTarget {
    /// Notes a change of an effect. Short: runs on the committer thread.
    pub(crate) fn changed(&self, change: &Change) {
        let Some(id) = schema::effect_of(&change.key) else { return };
        let mut index = self.lock();
        if !index.noting {
            return;
        }
        index.changed.insert(id);
        if index.changed.len() > MOST_CHANGED {
            *index = Index::default();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn place(&mut self, id: EffectId, target: Option<DeviceId>) {
        let before = match target {
            Some(target) => {
                self.effects.entry(target).or_default().insert(id);
                self.targets.insert(id, target).filter(|before| *before != target)
            }
            None => self.targets.remove(&id),
        };
        let Some(before) = before else { return };
        if let Some(ids) = self.effects.get_mut(&before) {
            ids.remove(&id);
            if ids.is_empty() {
                self.effects.remove(&before);
            }
        }
    }
}

impl Mailstore {
    /// The effects of a device that were not removed, by time of creation. The cost follows their number and that of the
    /// changes since the last search.
    pub async fn effects_of(&self, target: DeviceId) -> Result<Vec<Effect>, MailError> {
        let store = self.clone();
        blocking(move || {
            while !store.update_index()? {}
            let ids: Vec<EffectId> =
                store.inner.by_target.lock().effects.get(&target).into_iter().flatten().copied().collect();
            let mut effects = Vec::with_capacity(ids.len());
            for id in ids {
                effects.extend(store.effect(id)?.filter(|effect| effect.new.target == target));
            }
            effects.sort_by_key(|effect| (effect.new.created, effect.id));
            Ok(effects)
        })
        .await?
    }

    /// Reads what the index lacks; false if the index was dropped meanwhile, because too much has changed.
    fn update_index(&self) -> Result<bool, MailError> {
        let by_target = &self.inner.by_target;
        let _updating = by_target.updating.lock().unwrap_or_else(PoisonError::into_inner);
        let (complete, changed) = {
            let mut index = by_target.lock();
            index.noting = true;
            (index.complete, std::mem::take(&mut index.changed))
        };
        let found = match complete {
            true => self.targets_of(&changed),
            false => self.all_targets(),
        };
        let mut index = by_target.lock();
        let found = found.inspect_err(|_| index.changed.extend(changed))?;
        if index.noting {
            found.into_iter().for_each(|(id, target)| index.place(id, target));
            index.complete = true;
        }
        Ok(index.complete)
    }

    fn targets_of(&self, effects: &HashSet<EffectId>) -> Result<Vec<(EffectId, Option<DeviceId>)>, MailError> {
        effects.iter().map(|id| Ok((*id, self.effect(*id)?.map(|effect| effect.new.target)))).collect()
    }

    fn all_targets(&self) -> Result<Vec<(EffectId, Option<DeviceId>)>, MailError> {
        let mut found = Vec::new();
        for row in self.store().rows(schema::OUTBOX, &[]) {
            let (key, record) = row?;
            found.extend(readable(&key, &record).map(|effect| (effect.id, Some(effect.new.target))));
        }
        Ok(found)
    }
}
