//! The names of one entry, for a user who is bound to it by hand.

use std::fmt::Write;

use twinbox_directory_core::{DirectorySettings, Entry, Flavour, SearchSettings, guid_of_entry_id, person};
use twinbox_directory_service::{DirectoryServers, LdapError};
use twinbox_ids::Pii;
use twinbox_mailbox::EntryId;

/// Distinguished name and login of an entry that the search of the directory finds, and whether its account is disabled;
/// `None` if it finds none.
pub async fn entry_names(
    settings: &DirectorySettings,
    entry: EntryId,
) -> Result<Option<(Pii<String>, Pii<String>, bool)>, LdapError> {
    let mut connection = DirectoryServers::new(settings.servers.clone()).connect().await?;
    let flavour = connection.describe().await?.flavour;
    let filter = filter(&settings.search.filter, flavour, entry);
    let search = SearchSettings { filter, ..settings.search.clone() };
    let mut names = None;
    let each = |found: Entry| {
        if found.id == entry {
            let person = person(&settings.map, &found);
            names = Some((person.dn, person.login, person.disabled));
        }
        Ok(())
    };
    connection.full(&search, each).await?;
    connection.close().await;
    Ok(names)
}

/// The filter of the directory, for one entry.
fn filter(filter: &str, flavour: Flavour, entry: EntryId) -> String {
    match flavour {
        Flavour::ActiveDirectory => {
            let mut guid = String::new();
            for byte in guid_of_entry_id(entry) {
                // Writing to a string does not fail.
                let _ = write!(guid, "\\{byte:02x}");
            }
            format!("(&{filter}(objectGUID={guid}))")
        }
        Flavour::OpenLdap | Flavour::Auto => format!("(&{filter}(entryUUID={entry}))"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_names_the_entry_as_the_server_stores_its_id() {
        let entry = EntryId::parse("597ae2f6-16a6-1027-98f4-d28b5365dc14").expect("a UUID");
        assert_eq!(
            filter("(uid=*)", Flavour::OpenLdap, entry),
            "(&(uid=*)(entryUUID=597ae2f6-16a6-1027-98f4-d28b5365dc14))"
        );
        let guid = r"\f6\e2\7a\59\a6\16\27\10\98\f4\d2\8b\53\65\dc\14";
        assert_eq!(filter("(uid=*)", Flavour::ActiveDirectory, entry), format!("(&(uid=*)(objectGUID={guid}))"));
    }
}
