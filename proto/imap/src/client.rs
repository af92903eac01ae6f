//! A signed-in connection.

use std::{fmt, sync::Arc};

use crate::{
    Capabilities, ImapError, Login, ServerConfig, SocketOwner,
    response::Untagged,
    session::{Answer, LOGOUT, Piece, Session, refusal},
    sign_in,
};

/// Signed-in connection to a mail account.
pub struct Client {
    pub(crate) session: Session,
    pub(crate) capabilities: Capabilities,
    /// Whether QRESYNC was enabled, or the server does not have it.
    pub(crate) enabled: bool,
    pub(crate) folder: Option<OpenFolder>,
    pub(crate) noticed: Noticed,
}

/// Folder that is selected.
#[derive(Debug, Clone)]
pub(crate) struct OpenFolder {
    pub name: String,
    pub uid_next: u32,
    /// Number of mails, as far as the server told.
    pub exists: u32,
}

/// Changes of the selected folder that the server told and that no answer contained yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Noticed {
    pub changed: bool,
    pub expunged: bool,
}

impl Client {
    /// Connects and signs in. Each step has the time limit of the configuration. Fails with [`ImapError::Refused`] if
    /// the server refuses the credentials.
    pub async fn connect(
        config: &ServerConfig,
        login: &Login,
        owner: Arc<dyn SocketOwner>,
    ) -> Result<Self, ImapError> {
        let (session, offered) = sign_in::open(config, login, owner).await?;
        let capabilities = Capabilities::from(&offered);
        Ok(Self {
            session,
            capabilities,
            enabled: !capabilities.qresync,
            folder: None,
            noticed: Noticed::default(),
        })
    }

    /// Extensions that the server offers. QRESYNC is dropped at the first `select` if the server does not enable it.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Creates a folder (RFC 3501 §6.3.3) and subscribes to it (§6.3.6): many mail programs show only subscribed folders.
    /// A folder that exists already is no error and keeps its subscription. A refused subscription is no error.
    pub async fn create(&mut self, folder: &str) -> Result<(), ImapError> {
        let step = "CREATE";
        let command = format!("CREATE {}", crate::folder::folder(folder));
        let answer = self.session.run(step, &[Piece::Text(&command)], 0).await?;
        self.notice(&answer.untagged);
        if answer.done.is_named(&["ALREADYEXISTS"]) {
            return Ok(());
        }
        if !answer.done.is_ok() {
            return Err(refusal(step, None, answer.done));
        }
        let command = format!("SUBSCRIBE {}", crate::folder::folder(folder));
        let answer = self.session.run("SUBSCRIBE", &[Piece::Text(&command)], 0).await?;
        self.notice(&answer.untagged);
        Ok(())
    }

    /// Ends the connection (RFC 3501 §6.1.3). A failure changes nothing: the connection is closed in any case.
    pub async fn logout(mut self) {
        let _ = self.session.run(LOGOUT, &[Piece::Text("LOGOUT")], 0).await;
    }

    /// Exchanges a command that must succeed. `folder` is the one that it names.
    pub(crate) async fn command(
        &mut self,
        step: &'static str,
        command: &str,
        folder: Option<&str>,
        asked: usize,
    ) -> Result<Answer, ImapError> {
        let answer = self.session.run(step, &[Piece::Text(command)], asked).await?;
        if answer.done.is_ok() {
            return Ok(answer);
        }
        self.notice(&answer.untagged);
        Err(refusal(step, folder, answer.done))
    }

    /// Remembers changes of the selected folder, so that `idle` reports those told earlier.
    pub(crate) fn notice<'a>(&mut self, untagged: impl IntoIterator<Item = &'a Untagged>) {
        let Some(folder) = &mut self.folder else {
            return;
        };
        for data in untagged {
            match data {
                Untagged::Exists(count) => {
                    self.noticed.changed |= *count != folder.exists;
                    folder.exists = *count;
                }
                Untagged::Expunge => {
                    folder.exists = folder.exists.saturating_sub(1);
                    self.noticed = Noticed { changed: true, expunged: true };
                }
                Untagged::Vanished { earlier: false, uids } => {
                    let count = uids.iter().map(|(first, last)| first.abs_diff(*last).saturating_add(1));
                    folder.exists = folder.exists.saturating_sub(count.fold(0, u32::saturating_add));
                    self.noticed = Noticed { changed: true, expunged: true };
                }
                Untagged::Fetch(fetch) => self.noticed.changed |= fetch.flags.is_some(),
                _ => {}
            }
        }
    }

    /// Remembers changes after a command that added (`difference` 1) or removed (-1) one mail of the selected folder.
    /// That change itself is no news.
    pub(crate) fn notice_own(&mut self, untagged: &[Untagged], difference: i32) {
        let before = self.noticed;
        let expected = self.folder.as_ref().and_then(|folder| folder.exists.checked_add_signed(difference));
        self.notice(untagged);
        let flags = |data: &Untagged| matches!(data, Untagged::Fetch(fetch) if fetch.flags.is_some());
        let now = self.folder.as_ref().map(|folder| folder.exists);
        if expected.is_some() && expected == now && !untagged.iter().any(flags) {
            self.noticed = before;
        }
    }
}

/// Shows only the extensions: the name of the account is private.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("capabilities", &self.capabilities).finish_non_exhaustive()
    }
}
