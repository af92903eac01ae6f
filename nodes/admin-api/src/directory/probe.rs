//! The test of a directory from this node.

use std::time::Duration;

use tonic::Status;
use twinbox_directory_core::{DirectorySettings, Person};
use twinbox_directory_duty::probe;
use twinbox_wire::directory::{DirectoryTestReply, DirectoryTestStep, MappedPerson};

use super::records;
use crate::AdminHandles;

/// Time limit of the whole test: an administrator's command waits 20 seconds.
const WITHIN: Duration = Duration::from_secs(18);

/// Connects to each server, and shows how a few entries become users.
pub async fn test(node: &AdminHandles, name: &str) -> Result<DirectoryTestReply, Status> {
    let directory = records::find(node, name)?;
    let settings = DirectorySettings::from_settings(&directory.settings);
    let settings = settings.map_err(|error| Status::failed_precondition(error.to_string()))?;
    let report = tokio::time::timeout(WITHIN, probe(&settings)).await;
    let report = report.map_err(|_| {
        let seconds = WITHIN.as_secs();
        Status::failed_precondition(format!(
            "the servers have not answered within {seconds} s: set a shorter timeout=SECONDS to see which"
        ))
    })?;
    let ok = report.is_ok();
    let steps = report.steps.into_iter();
    let steps = steps.map(|step| DirectoryTestStep { step: step.step, ok: step.ok, detail: step.detail });
    Ok(DirectoryTestReply {
        node: node.name.to_string(),
        ok,
        steps: steps.collect(),
        people: report.people.into_iter().map(shown).collect(),
    })
}

fn shown(person: Person) -> MappedPerson {
    let text = |text: Option<String>| text.unwrap_or_default();
    MappedPerson {
        dn: person.dn.into_revealed(),
        number: text(person.number),
        name: text(person.name),
        mail: text(person.mail),
        class: text(person.class),
        language: text(person.language),
        timezone: text(person.timezone),
        disabled: person.disabled,
        problems: person.problems.into_iter().map(|problem| problem.text.into_revealed()).collect(),
    }
}
