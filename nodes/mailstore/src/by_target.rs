//! Effects by target, age and id: found without a walk through the whole outbox.
//!
//! The first search reads the outbox once. After it, every durable change of an effect, made here or by a peer, is noted by
//! its id, and the next search reads those effects again.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use twinbox_ids::{DeviceId, EffectId, Timestamp};
use twinbox_outbox::{Effect, EffectIndex, Indexed, Phase, schema};
use twinbox_replication_core::Change;

use crate::{MailError, Mailstore, outbox::readable, work::blocking};

/// Maximum number of noted changes: with more, the index is dropped, and the next search reads the outbox again.
const MOST_CHANGED: usize = 50_000;

/// The index. It may have effects that were removed since: a reader leaves them out.
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
    effects: EffectIndex,
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

impl Mailstore {
    /// The effects of a device that were not removed, by time of creation. The cost follows their number and that of the
    /// changes since the last search; so it does for the other searches.
    pub async fn effects_of(&self, target: DeviceId) -> Result<Vec<Effect>, MailError> {
        let mut effects = self.search(move |index| index.of_target(target)).await?;
        effects.retain(|effect| effect.new.target == target);
        effects.sort_by_key(|effect| (effect.new.created, effect.id));
        Ok(effects)
    }

    /// The effects that are not at their end, by time of creation.
    pub async fn open_effects(&self) -> Result<Vec<Effect>, MailError> {
        let mut effects = self.newest_effects(&[Phase::Open], None, usize::MAX).await?;
        effects.reverse();
        Ok(effects)
    }

    /// At most `most` effects in these phases, newest first, behind the one that was created then and has that id. An effect
    /// whose phase changes meanwhile may be among them.
    pub async fn newest_effects(
        &self,
        phases: &[Phase],
        after: Option<(Timestamp, EffectId)>,
        most: usize,
    ) -> Result<Vec<Effect>, MailError> {
        let phases = phases.to_vec();
        self.search(move |index| index.newest(&phases, after, most)).await
    }

    /// At most `most` effects whose ids begin with these hexadecimal digits.
    pub async fn effects_beginning(&self, digits: &str, most: usize) -> Result<Vec<Effect>, MailError> {
        let digits = digits.to_owned();
        self.search(move |index| index.of_prefix(&digits, most)).await
    }

    /// The effects that a search in the updated index finds.
    async fn search(
        &self,
        find: impl FnOnce(&EffectIndex) -> Vec<EffectId> + Send + 'static,
    ) -> Result<Vec<Effect>, MailError> {
        let store = self.clone();
        blocking(move || {
            while !store.update_index()? {}
            let ids = find(&store.inner.by_target.lock().effects);
            let mut effects = Vec::with_capacity(ids.len());
            for id in ids {
                effects.extend(store.effect(id)?);
            }
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
            true => self.index_of(&changed),
            false => self.index_of_all(),
        };
        let mut index = by_target.lock();
        let found = found.inspect_err(|_| index.changed.extend(changed))?;
        if index.noting {
            found.into_iter().for_each(|(id, indexed)| index.effects.place(id, indexed));
            index.complete = true;
        }
        Ok(index.complete)
    }

    fn index_of(&self, effects: &HashSet<EffectId>) -> Result<Vec<(EffectId, Option<Indexed>)>, MailError> {
        effects.iter().map(|id| Ok((*id, self.effect(*id)?.as_ref().map(Indexed::from)))).collect()
    }

    fn index_of_all(&self) -> Result<Vec<(EffectId, Option<Indexed>)>, MailError> {
        let mut found = Vec::new();
        for row in self.store().rows(schema::OUTBOX, &[]) {
            let (key, record) = row?;
            found.extend(readable(&key, &record).map(|effect| (effect.id, Some(Indexed::from(&effect)))));
        }
        Ok(found)
    }
}
