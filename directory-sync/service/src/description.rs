//! A server's description of itself.

use std::collections::BTreeSet;

use twinbox_directory_core::Flavour;

use crate::{DirectoryConnection, LdapError, controls::SYNC_REQUEST, entry::RawEntry, message::shown};

/// Capability of every Active Directory (MS-ADTS section 3.1.1.3.4.3).
const ACTIVE_DIRECTORY: &str = "1.2.840.113556.1.4.800";

/// A server's description of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerDescription {
    /// Kind of incremental search: of the settings, or recognized. `Auto`: none, each search is a full one.
    pub flavour: Flavour,
    /// Name and version of the software, if the server tells.
    pub vendor: Option<String>,
    /// Names of the controls that it supports.
    pub controls: BTreeSet<String>,
    /// Names of the subtrees that it holds.
    pub naming_contexts: Vec<String>,
    /// Identity of the database of an Active Directory server.
    pub invocation_id: Option<[u8; 16]>,
    /// Highest update sequence number of an Active Directory server.
    pub highest_usn: Option<u64>,
}

impl ServerDescription {
    /// The naming context that holds a base: the longest one with which the base ends.
    pub(crate) fn context_of(&self, base: &str) -> Option<&str> {
        let base = folded(base);
        let holds = |context: &str| {
            let context = folded(context);
            let before = base.strip_suffix(context.as_str());
            !context.is_empty() && before.is_some_and(|before| before.is_empty() || before.ends_with(','))
        };
        let contexts = self.naming_contexts.iter().map(String::as_str).filter(|context| holds(context));
        contexts.max_by_key(|context| context.len())
    }

    /// Whether the server divides results into pages.
    pub(crate) fn divides_results(&self) -> bool {
        self.controls.contains(crate::controls::PAGED)
    }
}

/// A name without regard to case and to spaces after commas.
fn folded(name: &str) -> String {
    let parts: Vec<String> = name.split(',').map(|part| part.trim().to_lowercase()).collect();
    parts.join(",")
}

/// Reads the root DSE.
pub(crate) async fn describe(connection: &DirectoryConnection) -> Result<ServerDescription, LdapError> {
    let attributes = [
        "objectClass",
        "vendorName",
        "vendorVersion",
        "supportedControl",
        "supportedCapabilities",
        "namingContexts",
        "dsServiceName",
        "highestCommittedUSN",
    ];
    let root = connection.read("", &attributes).await?;
    let root = root.ok_or_else(|| connection.protocol("it has no root DSE"))?;
    let flavour = match connection.settings.flavour {
        Flavour::Auto => recognized(&root),
        flavour => flavour,
    };
    let mut invocation_id = None;
    if let (Flavour::ActiveDirectory, Some(service)) = (flavour, root.text("dsServiceName")) {
        let service = connection.read(service, &["invocationId"]).await?;
        let value = service.as_ref().and_then(|service| service.values("invocationId").first());
        invocation_id = value.and_then(|value| value.as_slice().try_into().ok());
    }
    let vendor = [root.text("vendorName"), root.text("vendorVersion")];
    let vendor = vendor.into_iter().flatten().map(shown).collect::<Vec<_>>().join(" ");
    Ok(ServerDescription {
        flavour,
        vendor: Some(vendor).filter(|vendor| !vendor.is_empty()),
        controls: root.texts("supportedControl").map(str::to_owned).collect(),
        naming_contexts: root.texts("namingContexts").map(str::to_owned).collect(),
        invocation_id,
        highest_usn: root.text("highestCommittedUSN").and_then(|usn| usn.parse().ok()),
    })
}

fn recognized(root: &RawEntry) -> Flavour {
    if root.texts("supportedCapabilities").any(|capability| capability == ACTIVE_DIRECTORY) {
        Flavour::ActiveDirectory
    } else if root.texts("supportedControl").any(|control| control == SYNC_REQUEST)
        // Others name changed entries as if they were all the present ones, under an id that is not `entryUUID`.
        && root.texts("objectClass").any(|class| class.eq_ignore_ascii_case("OpenLDAProotDSE"))
    {
        Flavour::OpenLdap
    } else {
        Flavour::Auto
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_openldap_is_followed_by_its_content_synchronization() {
        let root = |class| RawEntry::with(&[("supportedcontrol", SYNC_REQUEST), ("objectclass", class)]);
        assert_eq!(recognized(&root("OpenLDAProotDSE")), Flavour::OpenLdap);
        // 389 Directory Server has the control, and names other ids in it.
        assert_eq!(recognized(&root("top")), Flavour::Auto);
    }

    #[test]
    fn a_base_is_held_by_the_longest_context_that_ends_it() {
        let contexts = ["", "dc=example,dc=com", "ou=Sales, dc=example,dc=com", "dc=com"];
        let description = ServerDescription {
            flavour: Flavour::Auto,
            vendor: None,
            controls: BTreeSet::new(),
            naming_contexts: contexts.map(str::to_owned).to_vec(),
            invocation_id: None,
            highest_usn: None,
        };
        for (base, context) in [
            ("OU=People,DC=Example,DC=com", Some("dc=example,dc=com")),
            ("ou=a,ou=sales,dc=example,dc=com", Some("ou=Sales, dc=example,dc=com")),
            ("dc=example,dc=com", Some("dc=example,dc=com")),
            ("dc=anexample,dc=com", Some("dc=com")),
            ("dc=org", None),
        ] {
            assert_eq!(description.context_of(base), context, "{base}");
        }
    }
}
