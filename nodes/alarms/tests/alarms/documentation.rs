//! `docs/alarms.md` shows the present tables of codes and kinds. To accept a change: `TWINBOX_BLESS=1`.

use std::{fs, path::Path};

use twinbox_alarms::{Code, Kind};

fn between(text: &str, mark: &str, table: &str) -> String {
    let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- /{mark} -->"));
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("no {begin}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("no {end}"));
    format!("{before}{begin}{table}{end}{after}")
}

#[test]
fn documentation_shows_the_tables_of_the_program() {
    let mut alarms = "| alarm | severity | ends | says | remedy |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for code in Code::ALL {
        let (severity, ends) = (code.severity(), code.clearing_rule().words());
        alarms += &format!("| `{code}` | {severity} | {ends} | {} | {} |\n", code.summary(), code.remedy());
    }
    let mut events = "| event | says |\n| --- | --- |\n".to_owned();
    for kind in Kind::ALL {
        events += &format!("| `{kind}` | {} |\n", kind.summary());
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/alarms.md");
    let text = fs::read_to_string(&path).expect("docs/alarms.md");
    let expected = between(&between(&text, "alarms", &alarms), "events", &events);
    if std::env::var_os("TWINBOX_BLESS").is_some() {
        fs::write(&path, &expected).expect("writable");
    } else {
        assert!(
            text == expected,
            "docs/alarms.md differs: run this test with TWINBOX_BLESS=1 and read the difference"
        );
    }
}
