//! Locations: other voicemail systems, and the digits that lead to them.

use twinbox_ids::LocationId;
use twinbox_locations::{Location, LocationChange, LocationError, schema};
use twinbox_mailbox::{Number, schema as mailbox_schema};
use twinbox_replication_core::{Key, Record};
use twinbox_replication_store::Draft;

use crate::{Acknowledgement, MailError, Mailstore};

/// A location was not made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum LocationStoreError {
    /// Another location has the name.
    #[error("location '{0}' already exists: change it with `twinbox location set`, or choose another name")]
    Name(String),
    /// Another location has the dial id.
    #[error("the dial id {dial_id} is in use by location '{by}': choose another, or change that location")]
    DialId {
        /// The dial id.
        dial_id: String,
        /// Name of the other location.
        by: String,
    },
    /// Numbers of mailboxes begin with the dial id.
    #[error(
        "the dial id {dial_id} is the beginning of number {number} here, so that numbers there could not be told from \
         numbers here: choose another"
    )]
    Number {
        /// The dial id.
        dial_id: String,
        /// Number of a mailbox here.
        number: String,
    },
    /// Another location has the domain.
    #[error("the domain {domain} is in use by location '{by}': a sender there would have two numbers")]
    Domain {
        /// The domain.
        domain: String,
        /// Name of the other location.
        by: String,
    },
    /// There is no such location (any more).
    #[error("location {0} does not exist: list the locations with `twinbox location list`")]
    None(LocationId),
    /// The settings do not make a location.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// Any other error.
    #[error(transparent)]
    Mail(#[from] MailError),
}

impl Mailstore {
    /// All locations, by name. One that this release cannot read is skipped, and logged.
    pub fn locations(&self) -> Result<Vec<Location>, MailError> {
        Ok(readable(&self.store().scan(schema::LOCATION, &[])?))
    }

    /// A location; `None` when there is none, or it was removed.
    pub fn location(&self, id: LocationId) -> Result<Option<Location>, MailError> {
        let key = schema::location_key(id);
        let record = self.store().get(&key)?;
        Ok(record.map(|record| Location::read(&key, &record)).transpose()?.flatten())
    }

    /// Adds a location.
    pub async fn add_location(&self, location: Location) -> Result<Acknowledgement, LocationStoreError> {
        let (refused, acknowledgement) = self
            .commit(move |draft| {
                let refused = conflict(draft, &location)?;
                if refused.is_none() {
                    draft.edit(schema::location_key(location.id), location.edits())?;
                }
                Ok(refused)
            })
            .await?;
        refused.map_or(Ok(acknowledgement), Err)
    }

    /// Changes settings of a location.
    pub async fn change_location(
        &self,
        id: LocationId,
        changes: Vec<LocationChange>,
    ) -> Result<Acknowledgement, LocationStoreError> {
        let (refused, acknowledgement) = self
            .commit(move |draft| {
                let here = locations_in(draft)?.into_iter().find(|location| location.id == id);
                let Some(mut changed) = here else { return Ok(Some(LocationStoreError::None(id))) };
                changed.change(&changes);
                let refused = conflict(draft, &changed)?;
                if refused.is_none() {
                    let edits = changes.iter().flat_map(LocationChange::edits).collect();
                    draft.edit(schema::location_key(id), edits)?;
                }
                Ok(refused)
            })
            .await?;
        refused.map_or(Ok(acknowledgement), Err)
    }

    /// Removes a location. Messages on their way to it come back to their senders.
    pub async fn remove_location(&self, id: LocationId) -> Result<Acknowledgement, LocationStoreError> {
        self.location(id)?.ok_or(LocationStoreError::None(id))?;
        let ((), acknowledgement) =
            self.commit(move |draft| Ok(draft.edit(schema::location_key(id), Location::removal())?)).await?;
        Ok(acknowledgement)
    }
}

/// Reason why a location cannot be beside the others and the mailboxes.
fn conflict(draft: &Draft<'_>, new: &Location) -> Result<Option<LocationStoreError>, MailError> {
    for other in locations_in(draft)?.into_iter().filter(|other| other.id != new.id) {
        if other.name == new.name {
            return Ok(Some(LocationStoreError::Name(other.name)));
        }
        if other.dial_id == new.dial_id {
            return Ok(Some(LocationStoreError::DialId { dial_id: other.dial_id, by: other.name }));
        }
        if other.domain == new.domain {
            return Ok(Some(LocationStoreError::Domain { domain: other.domain, by: other.name }));
        }
    }
    for (key, _) in draft.scan(mailbox_schema::NUMBER, new.dial_id.as_bytes())? {
        let Ok(number) = Number::normalise(&String::from_utf8_lossy(&key.id)) else { continue };
        if number.holder(|key| draft.get(key))?.is_some() {
            let (dial_id, number) = (new.dial_id.clone(), number.to_string());
            return Ok(Some(LocationStoreError::Number { dial_id, number }));
        }
    }
    Ok(None)
}

fn locations_in(draft: &Draft<'_>) -> Result<Vec<Location>, MailError> {
    Ok(readable(&draft.scan(schema::LOCATION, &[])?))
}

fn readable(rows: &[(Key, Record)]) -> Vec<Location> {
    let mut locations = Vec::new();
    for (key, record) in rows {
        match Location::read(key, record) {
            Ok(location) => locations.extend(location),
            Err(error) => tracing::warn!(%error, "location cannot be read; it is left out"),
        }
    }
    locations.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    locations
}
