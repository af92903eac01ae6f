//! Requests of administrators: list and change settings.

use tonic::{Request, Response, Status};
use tracing::info;
use twinbox_alarms::Kind;
use twinbox_cluster_settings::{Entries, Key, Register, Rows, TrunkChange, Values, schema, set_edit};
use twinbox_config::SettingMistake;
use twinbox_mail_gateway::find_postmaster;
use twinbox_mailstore::{Acknowledgement, MailError};
use twinbox_wire::settings::{
    NamedChange, Setting, SettingChangeRequest, SettingChanged, SettingListReply, SettingListRequest, TrunkChanged,
    TrunkListReply, TrunkListRequest, TrunkRequest,
    settings_server::{Settings, SettingsServer},
};

use crate::{SharedSettings, trunks::read_properties};

/// Serves administrators' requests about the settings that all nodes share.
pub struct SettingsService(SharedSettings);

impl SettingsService {
    /// Creates the service for this node.
    pub fn new(settings: SharedSettings) -> Self {
        Self(settings)
    }

    /// Converts it into a service of the administrators' socket.
    pub fn server(self) -> SettingsServer<Self> {
        SettingsServer::new(self)
    }

    fn describe(&self, rows: &Rows, values: &Values, key: Key) -> Setting {
        let parts = self.0.parts();
        let file = parts.file.get(key).unwrap_or_default();
        let origin = match rows.get(key.register()) {
            Some(row) if row.entries.get(key).is_some() => row.origin.text(),
            None if !file.is_empty() => "this node's file",
            _ => "default",
        };
        let value = values.text(key);
        Setting {
            name: key.name().to_owned(),
            value: key.shown(value),
            default: key.default(parts.wan).to_owned(),
            origin: origin.to_owned(),
            expected: key.kind().expected(),
            effect: key.effect().text().to_owned(),
            file: key.shown(file),
            ignored: !file.is_empty() && file != value,
        }
    }

    /// Whether mail for postmaster would be refused for good.
    async fn lacks_postmaster(&self) -> Result<bool, Status> {
        let mailstore = &self.0.parts().mailstore;
        match &self.0.services().identity {
            Some(identity) if mailstore.has_all_records() => {
                Ok(find_postmaster(mailstore, &identity.domain).await.map_err(internal)?.is_none())
            }
            _ => Ok(false),
        }
    }

    /// Refuses settings that this node could not use, unless it could not use the present ones either.
    fn check_use(
        &self,
        rows: &Rows,
        changed: &[(Register, Entries)],
        known: &[SettingMistake],
    ) -> Result<(), Status> {
        let parts = self.0.parts();
        let values = rows.values_with(changed, &parts.file, parts.wan);
        let receivers = parts.secrets.receivers(&values, &parts.name).1;
        let services = parts.services.in_force(&values, &parts.name).1;
        match receivers.into_iter().chain(services).find(|mistake| !known.contains(mistake)) {
            Some(mistake) => Err(Status::failed_precondition(mistake.to_string())),
            None => Ok(()),
        }
    }
}

/// The acknowledgement of a change as text.
pub(crate) fn words(acknowledgement: &Acknowledgement) -> String {
    match acknowledgement {
        Acknowledgement::OnTwo { .. } => "on two".to_owned(),
        Acknowledgement::Alone => "alone".to_owned(),
    }
}

fn read(change: NamedChange) -> Result<(Key, Option<String>), Status> {
    let key = Key::named(&change.name).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let value = change.value.map(|value| key.check(&value)).transpose();
    Ok((key, value.map_err(|error| Status::invalid_argument(format!("{} {error}", key.name())))?))
}

pub(crate) fn internal(error: impl ToString) -> Status {
    Status::internal(error.to_string())
}

#[tonic::async_trait]
impl Settings for SettingsService {
    async fn setting_list(&self, _: Request<SettingListRequest>) -> Result<Response<SettingListReply>, Status> {
        let (rows, mistakes) = self.0.state();
        let parts = self.0.parts();
        let values = rows.values(&parts.file, parts.wan);
        Ok(Response::new(SettingListReply {
            node: parts.name.to_string(),
            settings: Key::ALL.map(|key| self.describe(&rows, &values, key)).into(),
            unknown: rows.unknown().into_iter().map(str::to_owned).collect(),
            mistakes: mistakes.iter().map(ToString::to_string).collect(),
            no_postmaster: self.lacks_postmaster().await?,
        }))
    }

    async fn setting_change(
        &self,
        request: Request<SettingChangeRequest>,
    ) -> Result<Response<SettingChanged>, Status> {
        let changes: Vec<_> = request.into_inner().changes.into_iter().map(read).collect::<Result<_, _>>()?;
        if changes.is_empty() {
            return Err(Status::invalid_argument("no setting is named: write KEY=VALUE"));
        }
        let parts = self.0.parts();
        self.0.has_all()?;
        let refused = |error: twinbox_cluster_settings::GroupError| Status::failed_precondition(error.to_string());
        let (rows, known) = self.0.state();
        let expected = rows.changed(&parts.file, &changes).map_err(refused)?;
        self.check_use(&rows, &expected, &known)?;
        let (file, wanted) = (parts.file.clone(), changes.clone());
        let (outcome, acknowledgement) = parts
            .mailstore
            .commit(move |draft| {
                let stored = draft.scan(schema::SETTING, &[])?;
                // Concurrent changes by another administrator to the same register stay, if all fit together.
                let rows = Rows::of(stored.iter().map(|(key, record)| (key, record)));
                let changed = match rows.changed(&file, &wanted) {
                    Ok(changed) => changed,
                    Err(error) => return Ok::<_, MailError>(Err(error)),
                };
                for (register, entries) in changed {
                    draft.edit(schema::row_key(register), vec![set_edit(&entries)])?;
                }
                Ok(Ok(()))
            })
            .await
            .map_err(internal)?;
        outcome.map_err(refused)?;
        self.0.refresh().map_err(internal)?;
        let rows = self.0.state().0;
        let values = rows.values(&parts.file, parts.wan);
        let mut settings = Vec::new();
        for (key, _) in &changes {
            let setting = self.describe(&rows, &values, *key);
            info!(setting = key.name(), "administrator changes setting");
            let detail = if setting.value.is_empty() { "none" } else { &setting.value };
            parts.alarms.event(Kind::SettingChanged, key.name(), detail);
            settings.push(setting);
        }
        Ok(Response::new(SettingChanged { settings, acknowledged: words(&acknowledgement) }))
    }

    async fn trunk_list(&self, _: Request<TrunkListRequest>) -> Result<Response<TrunkListReply>, Status> {
        Ok(Response::new(self.0.list_trunks()))
    }

    async fn trunk_add(&self, request: Request<TrunkRequest>) -> Result<Response<TrunkChanged>, Status> {
        let TrunkRequest { name, settings } = request.into_inner();
        self.0.change_trunk(name, TrunkChange::Add(read_properties(&settings)?)).await.map(Response::new)
    }

    async fn trunk_set(&self, request: Request<TrunkRequest>) -> Result<Response<TrunkChanged>, Status> {
        let TrunkRequest { name, settings } = request.into_inner();
        if settings.is_empty() {
            return Err(Status::invalid_argument("no setting is named: write NAME=VALUE"));
        }
        self.0.change_trunk(name, TrunkChange::Set(read_properties(&settings)?)).await.map(Response::new)
    }

    async fn trunk_remove(&self, request: Request<TrunkRequest>) -> Result<Response<TrunkChanged>, Status> {
        self.0.change_trunk(request.into_inner().name, TrunkChange::Remove).await.map(Response::new)
    }
}
