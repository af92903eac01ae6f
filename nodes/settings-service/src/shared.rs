//! Values in force, and their way into the parts of the node.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use tracing::{info, warn};
use twinbox_alarms::{Alarms, Channel, Code};
use twinbox_calls::CallsService;
use twinbox_cluster_settings::{FileValues, Key, Register, Rows, TrunkRows, Values, schema};
use twinbox_config::{
    AlarmReceivers, AlarmSecrets, FileTrunks, NodeConfig, OwnServices, Services, SettingMistake, TrunksInForce,
    apply_to_calls, usual_mailbox,
};
use twinbox_handle::Handle;
use twinbox_ids::NodeName;
use twinbox_mailbox::pin::HashCost;
use twinbox_mailstore::{LiveSettings, MailError, Mailstore};
use twinbox_replication_peer::Peers;

/// Receivers of alarms.
const RECEIVERS: [Register; 2] = [Register::Webhook, Register::Trap];
/// Services to the outside.
const SERVICES: [Register; 6] = [
    Register::MailIdentity,
    Register::MailRoute,
    Register::MailSignature,
    Register::Sms,
    Register::Links,
    Register::S3,
];

/// The parts of a node that settings change, and the values of the node's file.
pub struct SettingsParts {
    /// Name of the node.
    pub name: NodeName,
    /// Values of the node's file.
    pub file: FileValues,
    /// Trunks of the node's file, and its passwords for trunks.
    pub trunks: FileTrunks,
    /// The cluster has the timing of a wide area network (`wan`).
    pub wan: bool,
    /// This node's secrets for receivers of alarms.
    pub secrets: AlarmSecrets,
    /// This node's secrets for services to the outside.
    pub services: OwnServices,
    /// Mailboxes and messages.
    pub mailstore: Mailstore,
    /// Replication with the other nodes.
    pub peers: Peers,
    /// SIP server.
    pub calls: CallsService,
    /// Alarms and events.
    pub alarms: Alarms,
}

impl SettingsParts {
    /// These parts, with the values of the node's configuration.
    pub fn of(
        config: &NodeConfig,
        mailstore: &Mailstore,
        peers: &Peers,
        calls: &CallsService,
        alarms: &Alarms,
    ) -> Self {
        Self {
            name: config.name.clone(),
            file: config.shared.clone(),
            trunks: config.trunks.clone(),
            wan: config.cluster.is_wan(),
            secrets: config.alarms.secrets.clone(),
            services: config.services.clone(),
            mailstore: mailstore.clone(),
            peers: peers.clone(),
            calls: calls.clone(),
            alarms: alarms.clone(),
        }
    }
}

/// The settings that all nodes share. Cheap to clone.
#[derive(Clone)]
pub struct SharedSettings(Handle<Inner>);

struct Inner {
    parts: SettingsParts,
    values: watch::Sender<Arc<Values>>,
    receivers: watch::Sender<Arc<AlarmReceivers>>,
    services: watch::Sender<Arc<Services>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rows: Rows,
    trunks: TrunkRows,
    in_force: TrunksInForce,
    /// Receivers of alarms that this node cannot use.
    receiver_mistakes: Vec<SettingMistake>,
    /// Services to the outside that this node cannot use.
    service_mistakes: Vec<SettingMistake>,
    /// Alarms that were raised: subject and detail.
    raised: BTreeMap<String, String>,
}

impl SharedSettings {
    /// Reads the store, and passes the values in force to the parts.
    pub fn open(parts: SettingsParts) -> Result<Self, MailError> {
        let values = Arc::new(Values::of(parts.file.iter(), parts.wan));
        let (receivers, state) = (watch::Sender::new(Arc::default()), Mutex::default());
        let services = watch::Sender::new(Arc::new(parts.services.in_force(&values, &parts.name).0));
        let settings =
            Self(Handle::new(Inner { parts, values: watch::Sender::new(values), receivers, services, state }));
        let rows = settings.read()?;
        settings.take(rows, true);
        Ok(settings)
    }

    /// The values in force.
    pub fn values(&self) -> Arc<Values> {
        self.0.values.borrow().clone()
    }

    /// A function that returns the present value of a duration in seconds.
    pub fn seconds(&self, key: Key) -> impl Fn() -> Duration + Send + Sync + use<> {
        let values = self.0.values.subscribe();
        move || values.borrow().seconds(key)
    }

    /// The services to the outside, by the settings in force.
    pub fn services(&self) -> Arc<Services> {
        self.0.services.borrow().clone()
    }

    /// The services to the outside, each time they change.
    pub fn watch_services(&self) -> watch::Receiver<Arc<Services>> {
        self.0.services.subscribe()
    }

    /// A function that returns the present value of a part of the services.
    pub fn current<T, F>(&self, part: F) -> impl Fn() -> T + Send + Sync + use<T, F>
    where
        F: Fn(&Services) -> T + Send + Sync,
    {
        let services = self.watch_services();
        move || part(services.borrow().as_ref())
    }

    /// Channels with a receiver of alarms.
    pub fn channels(&self) -> Vec<Channel> {
        self.0.receivers.borrow().channels()
    }

    pub(crate) fn receivers(&self) -> watch::Receiver<Arc<AlarmReceivers>> {
        self.0.receivers.subscribe()
    }

    pub(crate) fn parts(&self) -> &SettingsParts {
        &self.0.parts
    }

    /// The rows that were read last, and the settings that this node cannot use.
    pub(crate) fn state(&self) -> (Rows, Vec<SettingMistake>) {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.rows.clone(), [&state.receiver_mistakes[..], &state.service_mistakes[..]].concat())
    }

    /// Retries the services, receivers of alarms and trunks that this node could not use: a missing file may exist now.
    pub(crate) fn retry(&self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let services = !state.service_mistakes.is_empty() && self.take_services(&self.values(), &mut state);
        let receivers = !state.receiver_mistakes.is_empty() && self.retry_receivers(&self.values(), &mut state);
        let trunks = !state.in_force.mistakes.is_empty() && self.retry_trunks(&mut state);
        if services || receivers || trunks {
            self.report(&mut state);
        }
    }

    /// Builds the receivers of alarms again. Puts them in force, and returns true, if the mistakes changed.
    fn retry_receivers(&self, values: &Values, state: &mut State) -> bool {
        let parts = &self.0.parts;
        let (receivers, mistakes) = parts.secrets.receivers(values, &parts.name);
        let differ = state.receiver_mistakes != mistakes;
        if differ {
            state.receiver_mistakes = mistakes;
            self.0.receivers.send_replace(Arc::new(receivers));
        }
        differ
    }

    /// Builds the trunks again. Puts them in force, and returns true, if the mistakes changed.
    fn retry_trunks(&self, state: &mut State) -> bool {
        let in_force = self.0.parts.trunks.in_force(&state.trunks);
        let differ = state.in_force.mistakes != in_force.mistakes;
        if differ {
            self.use_trunks(in_force, state);
        }
        differ
    }

    fn use_trunks(&self, in_force: TrunksInForce, state: &mut State) {
        let trunks = in_force.trunks.clone();
        state.in_force = in_force;
        self.0.parts.calls.reconfigure(|calls| calls.trunks = trunks);
    }

    /// Puts the services of these values in force. True if the mistakes changed.
    fn take_services(&self, values: &Values, state: &mut State) -> bool {
        let (services, mistakes) = self.0.parts.services.in_force(values, &self.0.parts.name);
        let differ = state.service_mistakes != mistakes;
        state.service_mistakes = mistakes;
        self.0.services.send_replace(Arc::new(services));
        differ
    }

    /// The trunks that were read last, and those in force.
    pub(crate) fn trunks(&self) -> (TrunkRows, TrunksInForce) {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.trunks.clone(), state.in_force.clone())
    }

    /// Reads the store again, and passes changed values to the parts.
    pub(crate) fn refresh(&self) -> Result<(), MailError> {
        let rows = self.read()?;
        self.take(rows, false);
        Ok(())
    }

    fn read(&self) -> Result<(Rows, TrunkRows), MailError> {
        let rows = self.0.parts.mailstore.store().scan(schema::SETTING, &[])?;
        let all = || rows.iter().map(|(key, record)| (key, record));
        Ok((Rows::of(all()), TrunkRows::of(all())))
    }

    fn take(&self, (rows, trunks): (Rows, TrunkRows), first: bool) {
        let parts = &self.0.parts;
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if first || state.trunks != trunks {
            let in_force = parts.trunks.in_force(&trunks);
            if !first {
                let names: Vec<_> = in_force.trunks.iter().map(|trunk| trunk.name.as_str()).collect();
                info!(trunks = names.join(", "), "trunks of the cluster changed; these may call");
            }
            self.use_trunks(in_force, &mut state);
        } else if state.rows == rows {
            return;
        }
        let (before, values) = (self.values(), Arc::new(rows.values(&parts.file, parts.wan)));
        if first || *before != *values {
            if !first {
                let changed = |key: &Key| before.text(*key) != values.text(*key);
                let names: Vec<_> = Key::ALL.into_iter().filter(changed).map(Key::name).collect();
                info!(settings = names.join(" "), "settings of the cluster changed; they are in force");
            }
            self.apply(&values);
            let differ = |register: &Register| register.keys().any(|key| before.text(key) != values.text(key));
            if first || RECEIVERS.iter().any(differ) {
                let (receivers, mistakes) = parts.secrets.receivers(&values, &parts.name);
                state.receiver_mistakes = mistakes;
                self.0.receivers.send_replace(Arc::new(receivers));
            }
            if first || SERVICES.iter().any(differ) {
                self.take_services(&values, &mut state);
            }
            self.0.values.send_replace(values);
        }
        (state.rows, state.trunks) = (rows, trunks);
        self.report(&mut state);
    }

    fn apply(&self, values: &Values) {
        let parts = &self.0.parts;
        parts.peers.set_ack_timeout(Duration::from_millis(values.number(Key::AckTimeoutMs)));
        parts.mailstore.set_live(LiveSettings {
            require_two: values.flag(Key::RequireTwo),
            min_message_ms: values.number(Key::MinMessageMs),
            min_pin_length: values.tiny(Key::MinPinLength),
            pin_cost: HashCost {
                memory_kib: values.small(Key::PinHashKib),
                passes: values.small(Key::PinHashPasses),
            },
            usual: usual_mailbox(values),
        });
        parts.calls.reconfigure(|calls| apply_to_calls(values, calls));
    }

    /// Reports once the settings without effect on this node: values of the file, of another release, and receivers of alarms.
    fn report(&self, state: &mut State) {
        let parts = &self.0.parts;
        let subject = |what: &str| format!("{what} on {}", parts.name);
        let mut found: BTreeMap<String, String> = BTreeMap::new();
        for difference in state.rows.differences(&parts.file, parts.wan) {
            found.insert(subject(difference.key.name()), difference.text());
        }
        for (name, text) in state.trunks.differences(parts.trunks.trunks()) {
            found.insert(subject(&format!("trunk {name}")), text);
        }
        for (name, text) in state.trunks.unread().into_iter().chain(state.in_force.mistakes.clone()) {
            found.insert(subject(&format!("trunk {name}")), text);
        }
        for name in state.rows.unknown() {
            let detail = "the cluster's value is not one that this release accepts; the default is used: upgrade this \
                          node, or set the value again with 'twinbox setting set'";
            found.insert(subject(name), detail.to_owned());
        }
        for mistake in state.receiver_mistakes.iter().chain(&state.service_mistakes) {
            found.insert(subject(&mistake.key), format!("this node cannot use the cluster's settings: {mistake}"));
        }
        for (subject, detail) in &found {
            if state.raised.get(subject) != Some(detail) {
                warn!(%subject, %detail, "setting of this node has no effect");
                parts.alarms.raise(Code::ConfigDrift, subject, detail);
            }
        }
        for subject in state.raised.keys().filter(|subject| !found.contains_key(*subject)) {
            parts.alarms.clear(Code::ConfigDrift, subject);
        }
        state.raised = found;
    }
}
