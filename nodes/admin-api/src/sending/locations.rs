//! Locations: list, add, change, remove.

use tonic::Status;
use tracing::info;
use twinbox_admin_kit::named;
use twinbox_clock::wall;
use twinbox_ids::LocationId;
use twinbox_locations::{Location, LocationChange};
use twinbox_mailstore::{Acknowledgement, LocationStoreError};
use twinbox_wire::sending::{self, Changed, LocationListReply, LocationRequest};

use crate::{
    AdminHandles,
    admin::{acknowledged, all_records, internal, mail},
};

/// All locations.
pub fn list(node: &AdminHandles) -> Result<LocationListReply, Status> {
    all_records(node)?;
    let locations = node.mailstore.locations().map_err(internal)?;
    Ok(LocationListReply { locations: locations.into_iter().map(shown).collect() })
}

/// Adds a location.
pub async fn add(node: &AdminHandles, request: LocationRequest) -> Result<Changed, Status> {
    all_records(node)?;
    let changes = read(node, &request.settings)?;
    let location = Location::new(LocationId::random(), &request.name, &changes, wall())
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    let id = location.id;
    let acknowledgement = node.mailstore.add_location(location).await.map_err(refused)?;
    info!(location = %id, "administrator adds location");
    Ok(changed(id, &acknowledgement))
}

/// Changes settings of a location.
pub async fn set(node: &AdminHandles, request: LocationRequest) -> Result<Changed, Status> {
    let location = find(node, &request.name)?;
    let changes = read(node, &request.settings)?;
    if changes.is_empty() {
        return Err(Status::invalid_argument("no setting was named: write word=value, such as enabled=no"));
    }
    let acknowledgement = node.mailstore.change_location(location.id, changes).await.map_err(refused)?;
    info!(location = %location.id, "administrator changes location");
    Ok(changed(location.id, &acknowledgement))
}

/// Removes a location.
pub async fn remove(node: &AdminHandles, name: &str) -> Result<Changed, Status> {
    let location = find(node, name)?;
    let acknowledgement = node.mailstore.remove_location(location.id).await.map_err(refused)?;
    info!(location = %location.id, "administrator removes location");
    Ok(changed(location.id, &acknowledgement))
}

/// The location with that name, or that id.
fn find(node: &AdminHandles, name: &str) -> Result<Location, Status> {
    all_records(node)?;
    let add = "twinbox location add NAME dial-id=DIGITS domain=DOMAIN";
    let locations = node.mailstore.locations().map_err(internal)?;
    named::find(locations, name, |location| (location.name.as_str(), location.id.to_string()), "location", add)
}

fn read(node: &AdminHandles, settings: &[String]) -> Result<Vec<LocationChange>, Status> {
    let changes: Result<Vec<_>, _> = settings.iter().map(|text| LocationChange::parse(text)).collect();
    let changes = changes.map_err(|error| Status::invalid_argument(error.to_string()))?;
    let services = node.settings.services();
    let own = services.identity.as_ref().map(|identity| &identity.domain);
    for change in &changes {
        if let LocationChange::Domain(domain) = change
            && own.is_some_and(|own| own == domain)
        {
            let text = format!("'{domain}' is the mail domain of this cluster: give that of the other system");
            return Err(Status::invalid_argument(text));
        }
    }
    Ok(changes)
}

fn refused(error: LocationStoreError) -> Status {
    match error {
        LocationStoreError::Mail(error) => mail(error),
        LocationStoreError::None(_) => Status::not_found(error.to_string()),
        LocationStoreError::Location(_) => Status::invalid_argument(error.to_string()),
        error => Status::failed_precondition(error.to_string()),
    }
}

fn changed(id: LocationId, acknowledgement: &Acknowledgement) -> Changed {
    Changed { id: id.to_string(), acknowledged: acknowledged(acknowledgement) }
}

fn shown(location: Location) -> sending::Location {
    sending::Location {
        id: location.id.to_string(),
        name: location.name,
        dial_id: location.dial_id,
        domain: location.domain,
        audio: location.audio.word().to_owned(),
        enabled: location.enabled,
    }
}
