//! Test table of INVITEs in `tests/invites`.

use std::{fs, path::Path};

use twinbox_sip::{
    redirect::{Greeting, Party, Purpose, RedirectOrder, Rules, purpose},
    strict::{MessageVerdict, read},
};

fn outcome(invite: &[u8], order: RedirectOrder) -> String {
    let MessageVerdict::Request(request) = read(invite) else { return "refused".to_owned() };
    let (sign_in, ask_mailbox) = (["*97".to_owned()], ["*98".to_owned()]);
    let purpose = purpose(&request, Rules { sign_in: &sign_in, ask_mailbox: &ask_mailbox, order });
    let party = |Party { number, greeting }: &Party| match greeting {
        Greeting::Standard => format!("{number} standard"),
        Greeting::Busy => format!("{number} busy"),
    };
    let parties = purpose.parties().iter().map(party).collect::<Vec<_>>().join(", ");
    let unless = |word: &str| match parties.is_empty() {
        true => word.to_owned(),
        false => format!("{word} unless {parties}"),
    };
    match purpose {
        Purpose::Leave(_) => format!("leave {parties}"),
        Purpose::SignIn(_) => unless("sign-in"),
        Purpose::AskMailbox(_) => unless("ask"),
        Purpose::Nothing => "nothing".to_owned(),
    }
}

#[test]
fn every_invite_of_the_table_has_its_expected_purpose() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/invites");
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "sip") {
            continue;
        }
        count += 1;
        let invite = fs::read(&path).unwrap();
        let expected = fs::read_to_string(path.with_extension("expected")).unwrap();
        for line in expected.lines().filter(|l| !l.starts_with('#')) {
            let (order, meaning) = line.split_once(": ").unwrap();
            let order = match order {
                "first" => RedirectOrder::First,
                "last" => RedirectOrder::Last,
                other => panic!("{}: no such setting: {other}", path.display()),
            };
            let found = outcome(&invite, order);
            if found != meaning {
                wrong.push(format!("{} {order:?}: expected {meaning}, found {found}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 30, "only {count} invites: is the folder complete?");
}
