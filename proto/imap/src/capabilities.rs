//! Capabilities that a server offers (RFC 3501 §7.2.1).

use std::collections::BTreeSet;

/// Names of the capabilities of a server, in upper case.
#[derive(Debug, Clone, Default)]
pub(crate) struct Offered(BTreeSet<String>);

impl Offered {
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().map(|name| name.to_ascii_uppercase()).collect())
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// Ways to sign in, as text for an administrator.
    pub fn mechanisms(&self) -> String {
        let names: Vec<_> = self.0.iter().filter_map(|name| name.strip_prefix("AUTH=")).collect();
        match (names.is_empty(), self.has("LOGINDISABLED")) {
            (true, true) => "LOGINDISABLED".to_owned(),
            (true, false) => "LOGIN".to_owned(),
            (false, _) => crate::error::shown(&names.join(", ")),
        }
    }
}

/// Extensions that the server of a signed-in connection offers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Live notification of changes (RFC 2177).
    pub idle: bool,
    /// Modification sequences of flags (RFC 7162 §3.1).
    pub condstore: bool,
    /// Resumption with expunged UIDs (RFC 7162 §3.2).
    pub qresync: bool,
    /// UIDs of appended mails and removal of single mails (RFC 4315).
    pub uidplus: bool,
    /// Moving in one command (RFC 6851).
    pub move_: bool,
}

impl From<&Offered> for Capabilities {
    fn from(offered: &Offered) -> Self {
        // QRESYNC works only after ENABLE (RFC 7162 §3.2.3) and includes CONDSTORE.
        let qresync = offered.has("QRESYNC") && offered.has("ENABLE");
        Self {
            idle: offered.has("IDLE"),
            condstore: qresync || offered.has("CONDSTORE"),
            qresync,
            uidplus: offered.has("UIDPLUS"),
            move_: offered.has("MOVE"),
        }
    }
}
