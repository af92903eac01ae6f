//! The account of a user, from the settings of the server, of the account, and the user's names.

use std::{collections::BTreeMap, path::PathBuf};

use twinbox_ids::{MailServerId, MailboxId, Pii};
use twinbox_mailbox_sync::{Account, AccountError, AccountSettings, Owner, account_change, account_of};

use crate::settings::server;

const SERVER: MailServerId = MailServerId(1);

fn owner() -> Owner {
    let private = |text: &str| Some(Pii::new(text.to_owned()));
    Owner { mailbox: MailboxId(2), mail: private("anna@example.com"), number: private("1001"), login: None }
}

fn own(texts: &[&str]) -> AccountSettings {
    let mut stored = BTreeMap::new();
    for text in texts {
        let (number, value) = account_change(text).expect(text);
        stored.extend(value.map(|value| (number, value)));
    }
    AccountSettings::from_settings(&stored).expect("valid settings")
}

fn account(server_texts: &[&str], own: Option<&AccountSettings>) -> Result<Account, AccountError> {
    let settings = server(&[&["host=a"][..], server_texts].concat()).expect("valid settings");
    account_of(&settings, SERVER, own, &owner())
}

#[test]
fn account_has_the_values_of_its_server_and_its_own_over_them() {
    let texts = ["password-file=/p", "folder=Voice", "trash=Trash"];
    let included = account(&texts, None).expect("an account");
    let expected = Account {
        mailbox: MailboxId(2),
        server: SERVER,
        listed: false,
        user: Pii::new("anna@example.com".to_owned()),
        folder: "Voice".to_owned(),
        trash: Some("Trash".to_owned()),
        password_file: Some(PathBuf::from("/p")),
    };
    assert_eq!(included, expected);
    assert!(!format!("{included:?}").contains("anna"));
    assert_eq!(account(&texts, Some(&own(&[]))), Ok(Account { listed: true, ..expected.clone() }));
    let settings = own(&["account=a.smith", "folder=INBOX", "trash=expunge", "password-file=/own"]);
    let expected = Account {
        listed: true,
        user: Pii::new("a.smith".to_owned()),
        folder: "INBOX".to_owned(),
        trash: None,
        password_file: Some(PathBuf::from("/own")),
        ..expected
    };
    assert_eq!(account(&texts, Some(&settings)), Ok(expected));
}

#[test]
fn template_takes_the_names_of_the_user() {
    let user = |template: &str| {
        let account = account(&["password-file=/p", &format!("account={template}")], None)?;
        Ok::<_, AccountError>(account.user.into_revealed())
    };
    assert_eq!(user("{number}@vm.example").as_deref(), Ok("1001@vm.example"));
    assert_eq!(user("x{number}{mail}").as_deref(), Ok("x1001anna@example.com"));
    let error = user("{login}").expect_err("the user has no login");
    assert_eq!(error, AccountError::NoValue { what: "login" });
    assert!(error.to_string().contains("no login") && error.to_string().contains("account=NAME"));
    assert_eq!(user(&format!("{{number}}{}", "x".repeat(320))), Err(AccountError::Name));
}

#[test]
fn trash_that_is_the_folder_of_the_messages_is_refused() {
    let trash = |texts: &[&str], settings: &[&str]| {
        let account = account(&[&["password-file=/p"], texts].concat(), Some(&own(settings)));
        account.map(|account| account.trash)
    };
    let refused = Err(AccountError::TrashIsFolder);
    assert_eq!(trash(&["trash=inbox"], &[]), refused);
    assert_eq!(trash(&["folder=Voice", "trash=Voice"], &[]), refused);
    assert_eq!(trash(&["trash=Bin"], &["folder=Bin"]), refused);
    assert_eq!(trash(&["folder=Voice"], &["trash=Voice"]), refused);
    assert_eq!(trash(&["folder=Voice", "trash=voice"], &[]), Ok(Some("voice".to_owned())));
    assert_eq!(trash(&["trash=INBOX"], &["trash=expunge"]), Ok(None));
    assert!(AccountError::TrashIsFolder.to_string().contains("trash=expunge"));
}

#[test]
fn account_that_cannot_sign_in_is_refused() {
    let disabled = own(&["enabled=no"]);
    assert_eq!(account(&["password-file=/p"], Some(&disabled)), Err(AccountError::Disabled));
    assert_eq!(account(&["enabled=no", "password-file=/p"], None), Err(AccountError::ServerDisabled));
    assert_eq!(account(&[], None), Err(AccountError::NoPassword));
    let refresh = ["auth=refresh-token", "token-url=https://a/", "client-id=x"];
    assert_eq!(account(&refresh, None), Err(AccountError::NoRefreshToken));
    let settings = own(&["password-file=/own"]);
    let file = |account: Result<Account, AccountError>| account.map(|account| account.password_file);
    assert_eq!(file(account(&refresh, Some(&settings))), Ok(Some(PathBuf::from("/own"))));
    let master = ["auth=master-user", "master-user=m", "password-file=/p"];
    assert_eq!(file(account(&master, Some(&settings))), Ok(None));
}
