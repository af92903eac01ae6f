//! Requests of administrators about trunks.

use tonic::Status;
use tracing::info;
use twinbox_alarms::Kind;
use twinbox_cluster_settings::{KnownTrunk, Property, TrunkChange, TrunkError, TrunkRows, schema};
use twinbox_mailstore::MailError;
use twinbox_wire::settings::{Trunk, TrunkChanged, TrunkListReply};

use crate::{
    SharedSettings,
    service::{internal, words},
};

impl SharedSettings {
    /// Refuses changes on a node that lacks records.
    pub(crate) fn has_all(&self) -> Result<(), Status> {
        match self.parts().mailstore.has_all_records() {
            true => Ok(()),
            false => Err(Status::unavailable(
                "this node still receives records of the others: ask another node (--node), or wait until 'twinbox \
                 cluster status' shows it in-service",
            )),
        }
    }

    pub(crate) fn list_trunks(&self) -> TrunkListReply {
        let (parts, (rows, in_force)) = (self.parts(), self.trunks());
        let describe = |known: &KnownTrunk<'_>| Trunk {
            name: known.trunk.name().to_owned(),
            settings: known.trunk.settings().collect(),
            origin: known.origin.map_or("this node's file", |origin| origin.text()).to_owned(),
            in_force: in_force.trunks.iter().any(|trunk| trunk.name == known.trunk.name()),
        };
        let notes = [rows.differences(parts.trunks.trunks()), rows.unread(), in_force.mistakes.clone()];
        TrunkListReply {
            node: parts.name.to_string(),
            trunks: rows.known(parts.trunks.trunks()).iter().map(describe).collect(),
            mistakes: notes.into_iter().flat_map(std::collections::BTreeMap::into_values).collect(),
        }
    }

    /// Refuses trunks that this node could not use, then changes the cluster's.
    pub(crate) async fn change_trunk(&self, name: String, change: TrunkChange) -> Result<TrunkChanged, Status> {
        self.has_all()?;
        let parts = self.parts();
        let name = name.trim().to_owned();
        self.try_trunk(&name, &change)?;
        let (file, wanted) = (parts.trunks.clone(), (name.clone(), change.clone()));
        let (outcome, acknowledgement) = parts
            .mailstore
            .commit(move |draft| {
                let stored = draft.scan(schema::SETTING, &[])?;
                let rows = TrunkRows::of(stored.iter().map(|(key, record)| (key, record)));
                match rows.change(file.trunks(), &wanted.0, &wanted.1) {
                    Ok((key, edits)) => draft.edit(key, edits)?,
                    Err(error) => return Ok::<_, MailError>(Err(error)),
                }
                Ok(Ok(()))
            })
            .await
            .map_err(internal)?;
        outcome.map_err(refused)?;
        self.refresh().map_err(internal)?;
        let done = match change {
            TrunkChange::Add(_) => "added",
            TrunkChange::Set(_) => "changed",
            TrunkChange::Remove => "removed",
        };
        info!(trunk = name, done, "administrator changes trunk");
        parts.alarms.event(Kind::SettingChanged, &format!("trunk {name}"), done);
        let trunk = self.list_trunks().trunks.into_iter().find(|trunk| trunk.name == name);
        Ok(TrunkChanged { trunk, acknowledged: words(&acknowledgement) })
    }

    /// Tries a change without making it: whether this node could use the trunk.
    fn try_trunk(&self, name: &str, change: &TrunkChange) -> Result<(), Status> {
        let (parts, rows) = (self.parts(), self.trunks().0);
        let changed = rows.changed(parts.trunks.trunks(), name, change).map_err(refused)?;
        let mistake = changed.and_then(|trunk| parts.trunks.mistake(&trunk));
        mistake.map_or(Ok(()), |mistake| Err(Status::failed_precondition(mistake)))
    }
}

/// Reads the properties of a request.
pub(crate) fn read_properties(settings: &[String]) -> Result<Vec<(Property, Option<String>)>, Status> {
    settings.iter().map(|text| Property::setting(text).map_err(refused)).collect()
}

fn refused(error: TrunkError) -> Status {
    match error {
        TrunkError::Exists(_) => Status::already_exists(error.to_string()),
        TrunkError::NoTrunk { .. } => Status::not_found(error.to_string()),
        TrunkError::Taken { .. } | TrunkError::NoAddresses(_) => Status::failed_precondition(error.to_string()),
        _ => Status::invalid_argument(error.to_string()),
    }
}
