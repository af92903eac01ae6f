//! A test of a directory for an administrator: connects, signs in, and maps a few entries. Changes nothing.

use twinbox_directory_core::{DirectorySettings, Entry, Person, ServerSettings, person};
use twinbox_directory_service::{DirectoryServers, LdapError, Stop};

/// Maximum number of people of a test.
const MOST_PEOPLE: usize = 5;

/// A step of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeStep {
    /// The step, for people.
    pub step: String,
    /// Whether it succeeded.
    pub ok: bool,
    /// The result, or the error.
    pub detail: String,
}

/// Result of a test.
#[derive(Debug, Clone, Default)]
pub struct ProbeReport {
    /// The steps in their order: each server alone, then the search at the first that works.
    pub steps: Vec<ProbeStep>,
    /// The first people of the search, at most 5.
    pub people: Vec<Person>,
}

impl ProbeReport {
    /// Whether a server answers, and the search finds someone.
    pub fn is_ok(&self) -> bool {
        self.steps.last().is_some_and(|step| step.ok) && !self.people.is_empty()
    }

    fn add(&mut self, step: impl Into<String>, result: Result<String, String>) -> bool {
        let ok = result.is_ok();
        let detail = result.unwrap_or_else(|error| error);
        self.steps.push(ProbeStep { step: step.into(), ok, detail });
        ok
    }
}

/// Tests a directory from this node.
pub async fn probe(settings: &DirectorySettings) -> ProbeReport {
    let mut report = ProbeReport::default();
    let mut working = None;
    for url in &settings.servers.urls {
        let servers = ServerSettings { urls: vec![url.clone()], ..settings.servers.clone() };
        let result = describe(&servers).await;
        if report.add(format!("server {url}"), result.map_err(|error| error.to_string())) && working.is_none() {
            working = Some(servers);
        }
    }
    let Some(servers) = working else { return report };
    let found = search(servers, settings).await;
    let people = found.as_ref().map(Vec::clone).unwrap_or_default();
    let result = match found {
        Ok(people) if people.is_empty() => Err("no entry matches: check base and filter".to_owned()),
        Ok(people) if people.len() >= MOST_PEOPLE => Ok(format!("the first {} entries follow", people.len())),
        Ok(people) => Ok(format!("{} entries match", people.len())),
        Err(error) => Err(error.to_string()),
    };
    report.add("search", result);
    report.people = people;
    report
}

async fn describe(servers: &ServerSettings) -> Result<String, LdapError> {
    let connection = DirectoryServers::new(servers.clone()).connect().await?;
    let description = connection.describe().await?;
    connection.close().await;
    let vendor = description.vendor.unwrap_or_else(|| "unnamed software".to_owned());
    let contexts = description.naming_contexts.join(", ");
    Ok(format!("signed in; {vendor}, {}, holds {contexts}", description.flavour.word()))
}

/// The first people of the search.
async fn search(servers: ServerSettings, settings: &DirectorySettings) -> Result<Vec<Person>, LdapError> {
    let mut connection = DirectoryServers::new(servers).connect().await?;
    let mut people = Vec::new();
    let each = |entry: Entry| {
        people.push(person(&settings.map, &entry));
        if people.len() < MOST_PEOPLE { Ok(()) } else { Err(Stop) }
    };
    let searched = connection.full(&settings.search, each).await;
    match searched {
        Ok(_) | Err(LdapError::Stopped) => Ok(people),
        Err(error) => Err(error),
    }
}
