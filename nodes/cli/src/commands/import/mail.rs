//! Mail addresses, notification devices and texts of mails of Asterisk's users.

use std::{collections::HashMap, fs, path::Path};

use serde::Serialize;
use twinbox_asterisk::{conf::Entry, texts};
use twinbox_mailbox::UserAddress;

use twinbox_admin_client::CliError;

/// Columns of a users' table, in the order of [`MailColumns::of`].
pub const COLUMNS: &str = "mail,notify_mail,notify_audio,notify_delete,notify_pager";

/// The columns of all users of a file, of whom several may share an address.
#[derive(Debug, Default)]
pub struct MailColumns {
    /// The first mailbox with each address.
    owners: HashMap<UserAddress, String>,
}

impl MailColumns {
    /// The fields of a mailbox. Reports settings that are not imported.
    pub fn of(&mut self, entry: &Entry, mut report: impl FnMut(String)) -> String {
        let number = &entry.mailbox;
        let mut first = |what: &str, list: &str| {
            let mut valid = Vec::new();
            for text in list.split('|').map(str::trim).filter(|text| !text.is_empty()) {
                match UserAddress::address(text) {
                    Ok(address) => valid.push((address, text.to_owned())),
                    Err(error) => report(format!("{what} '{text}' of mailbox {number}: {error}")),
                }
            }
            if valid.len() > 1 {
                report(format!(
                    "{what} of mailbox {number}: all but the first: add them with 'twinbox device add'"
                ));
            }
            valid.into_iter().next()
        };
        let (mail, pager) = (first("mail address", &entry.mail), first("pager", &entry.pager));
        let pager = pager.map(|(_, text)| text).unwrap_or_default();
        if !entry.own_texts.is_empty() {
            report(format!(
                "{} of mailbox {number}: texts and sender are the same for all",
                entry.own_texts.join(", ")
            ));
        }
        let Some((address, text)) = mail else { return format!(",,,,{pager}") };
        let owner = self.owners.entry(address).or_insert_with(|| number.clone());
        let own = if *owner == *number { text.as_str() } else { "" };
        if own.is_empty() {
            report(format!(
                "mail address of mailbox {number} as its own, because it is that of mailbox {owner}: notifications go there \
                 all the same"
            ));
        }
        if entry.delete && !entry.attach {
            report(format!("delete=yes of mailbox {number}: without attach=yes the recording would be lost"));
        }
        let switch = |on: bool| if on { "yes" } else { "no" };
        let delete = switch(entry.delete && entry.attach);
        format!("{own},{text},{},{delete},{pager}", switch(entry.attach))
    }
}

/// Outcome of the texts of mails.
#[derive(Debug, Default, Serialize)]
pub struct Texts {
    /// Templates that were written, or would be.
    pub written: Vec<String>,
    /// Texts that are not imported, with the reason.
    #[serde(skip)]
    pub not_taken: Vec<String>,
}

/// Writes the texts as templates into the folder of a language. A file that is there stays.
pub fn write_texts(
    conf: &Path,
    options: &[(u64, &'static str, String)],
    folder: Option<&Path>,
    dry_run: bool,
) -> Result<Texts, CliError> {
    let mut outcome = Texts::default();
    for (line, option, text) in options {
        let mut report =
            |why: String| outcome.not_taken.push(format!("{}:{line}: {option}: {why}", conf.display()));
        let Some(file) = texts::file(option) else {
            report("the mail to a pager has no subject".to_owned());
            continue;
        };
        let template = match texts::template(text) {
            Ok(template) => template + "\n",
            Err(problem) => {
                report(problem.to_string());
                continue;
            }
        };
        let Some(folder) = folder else {
            report("choose a folder of templates with --templates".to_owned());
            continue;
        };
        let path = folder.join(file);
        match fs::read(&path) {
            Ok(present) if present == template.as_bytes() => {}
            Ok(_) => report(format!("{} is there already, with another text", path.display())),
            Err(_) => {
                if !dry_run {
                    let failed = |error| {
                        CliError::Failed(format!("the users are imported, but not {}: {error}", path.display()))
                    };
                    fs::create_dir_all(folder).and_then(|()| fs::write(&path, template)).map_err(failed)?;
                }
                outcome.written.push(path.display().to_string());
            }
        }
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use twinbox_asterisk::conf;

    use super::*;

    fn columns(lines: &str) -> (Vec<String>, Vec<String>) {
        let conf = conf::read(&format!("[default]\n{lines}"), "default");
        assert_eq!(conf.errors, []);
        let (mut columns, mut reports) = (MailColumns::default(), Vec::new());
        let rows = conf.entries.iter().map(|entry| columns.of(entry, |text| reports.push(text))).collect();
        (rows, reports)
    }

    #[test]
    fn addresses_and_options_become_columns() {
        for (line, row, reported) in [
            ("1 => 1,A,nonsense,1@p.example", ",,,,1@p.example", &["'nonsense'"][..]),
            ("1 => 1,A", ",,,,", &[]),
            ("1 => 1,A,Ada@example.com", "Ada@example.com,Ada@example.com,yes,no,", &[]),
            ("1 => 1,A,a@b.example,1@p.example,attach=no", "a@b.example,a@b.example,no,no,1@p.example", &[]),
            ("1 => 1,A,,1@p.example,delete=yes", ",,,,1@p.example", &[]),
            ("1 => 1,A,a@b.example,,attach=yes|delete=yes", "a@b.example,a@b.example,yes,yes,", &[]),
            ("1 => 1,A,a@b.example,,attach=no|delete=yes", "a@b.example,a@b.example,no,no,", &["delete=yes"]),
            ("1 => 1,A,a@b.example|c@d.example", "a@b.example,a@b.example,yes,no,", &["all but the first"]),
            ("1 => 1,A,,,serveremail=x@y.example", ",,,,", &["serveremail"]),
        ] {
            let (rows, reports) = columns(line);
            assert_eq!(rows, [row], "{line}");
            assert_eq!(reports.len(), reported.len(), "{line}: {reports:?}");
            assert!(
                reports.iter().zip(reported).all(|(report, part)| report.contains(part)),
                "{line}: {reports:?}"
            );
        }
    }

    #[test]
    fn shared_address_is_the_first_mailbox_s_own_and_notifies_all() {
        let (rows, reports) = columns("1 => 1,A,Team@example.com\n2 => 1,B,team@example.com\n");
        assert_eq!(rows, ["Team@example.com,Team@example.com,yes,no,", ",team@example.com,yes,no,"]);
        assert!(reports.len() == 1 && reports[0].contains("mailbox 2"), "{reports:?}");
    }

    #[test]
    fn texts_are_written_once_and_replace_no_file() {
        let dir = TempDir::new().expect("a folder");
        let (folder, conf) = (dir.path().join("en"), Path::new("voicemail.conf"));
        let options = [
            (3, "emailsubject", "New message from ${VM_CIDNAME}".to_owned()),
            (4, "emailbody", "${VM_CONTEXT}".to_owned()),
            (5, "pagersubject", "x".to_owned()),
            (6, "pagerbody", "${VM_DUR}".to_owned()),
        ];
        let write = |folder, dry_run| write_texts(conf, &options, folder, dry_run).expect("written");
        assert_eq!(write(None, false).not_taken.len(), 4);
        let paths = ["mail.subject", "pager.txt"].map(|file| folder.join(file).display().to_string());
        assert_eq!(write(Some(&folder), true).written, paths);
        assert!(!folder.exists(), "a dry run writes nothing");
        assert_eq!(write(Some(&folder), false).written.len(), 2);
        let subject = fs::read_to_string(folder.join("mail.subject")).expect("written");
        assert_eq!(subject, "New message from {{ caller_name or \"an unknown caller\" }}\n");
        fs::write(folder.join("pager.txt"), "my own").expect("written");
        let again = write(Some(&folder), false);
        assert!(again.written.is_empty(), "{again:?}");
        let parts =
            ["voicemail.conf:4: emailbody", "voicemail.conf:5: pagersubject", "voicemail.conf:6: pagerbody"];
        assert_eq!(again.not_taken.len(), 3, "{again:?}");
        assert!(again.not_taken.iter().zip(parts).all(|(text, part)| text.starts_with(part)), "{again:?}");
        assert_eq!(fs::read_to_string(folder.join("pager.txt")).expect("there"), "my own");
    }
}
