//! The key maps as a Markdown document.

use std::fmt::Write as _;

use crate::{
    GreetingKind,
    keymap::{Action, KEYPAD, KeyMap, Menu},
};

const HEAD: &str = "# The keys\n\n\
    What each key does, drawn from the tables in `src/keymap.rs`; a test compares. The setting `key_map` chooses \
    the map of the mailbox owners: `asterisk` (the default, after Asterisk's VoiceMailMain) or `unity` (after Cisco \
    Unity Connection). A key that is not listed says that it does nothing here, and the menu again; while a greeting \
    or message plays or something is recorded it is passed over. The keys `A` to `D` do nothing anywhere.\n";

/// The menus, in the order in which a caller reaches them.
const MENUS: [(Menu, &str); 14] = [
    (Menu::Greeting, "A caller hears the greeting, or that the mailbox is full"),
    (Menu::Recording, "A message, greeting or name is being recorded"),
    (Menu::Entry, "A mailbox number or PIN is being entered"),
    (Menu::Main, "Main menu"),
    (Menu::Folders, "Choosing a folder"),
    (Menu::Playing, "A message is playing, or what is said before it"),
    (Menu::Played, "After a message"),
    (Menu::Advanced, "Advanced options of a message"),
    (Menu::Setup, "Mailbox options"),
    (Menu::Greetings, "Greetings"),
    (Menu::Personal, "PIN and name"),
    (Menu::Temporary, "A temporary greeting is on"),
    (Menu::Tone, "Before the tone, when recording a greeting or name"),
    (Menu::Review, "A greeting or name has been recorded"),
];

/// All maps as one Markdown document.
pub fn markdown() -> String {
    let mut text = HEAD.to_owned();
    for (menu, title) in MENUS {
        let maps: Vec<_> = KeyMap::all().into_iter().filter(|map| !map.keys(menu).is_empty()).collect();
        let same =
            maps.len() > 1 && maps.windows(2).all(|pair| std::ptr::eq(pair[0].keys(menu), pair[1].keys(menu)));
        let columns = if same { &maps[..1] } else { &maps[..] };
        let names: Vec<_> = columns.iter().map(|map| if same { "every map" } else { map.name }).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "\n## {title}\n\n| key | {} |\n| --- |{}",
            names.join(" | "),
            " --- |".repeat(names.len())
        );
        for key in KEYPAD {
            let cells: Vec<_> = columns.iter().map(|map| cell(map, menu, key)).collect();
            if cells.iter().any(|cell| !cell.is_empty()) {
                let _ = writeln!(text, "| `{key}` | {} |", cells.join(" | "));
            }
        }
    }
    text
}

fn cell(map: &KeyMap, menu: Menu, key: char) -> String {
    let bound = map.keys(menu).iter().filter(|k| k.key == key).map(|k| words(k.action));
    bound.collect::<Vec<_>>().join("; else: ")
}

fn words(action: Action) -> &'static str {
    match action {
        Action::SkipToTone => "skip to the tone",
        Action::SignIn => "sign in to this mailbox",
        Action::Operator => "go to the operator, where one is set",
        Action::Finish => "end the recording",
        Action::Submit => "end of the number or PIN",
        Action::StartOver => {
            "enter it again from the start; if nothing was entered: before a PIN another mailbox, before a new PIN back to the menu"
        }
        Action::PlayNew => "hear the new messages, if there are any",
        Action::PlayOld => "hear the old messages",
        Action::Folders => "choose new or old messages",
        Action::Help => "hear what the keys do",
        Action::Exit => "end the call",
        Action::Main => "main menu",
        Action::First => "go to the first message",
        Action::Previous => "go to the message before",
        Action::Next => "go to the next message",
        Action::Repeat => "play it from the beginning",
        Action::SkipToEnd => "skip to its end",
        Action::Delete => "delete it",
        Action::Undelete => "if it is deleted: undelete it",
        Action::Save => "save it",
        Action::Advanced => "advanced options",
        Action::Envelope => "hear when it came and from whom",
        Action::Back => "back to the message",
        Action::Setup => "mailbox options",
        Action::Greetings => "greetings",
        Action::Personal => "PIN and name",
        Action::Temporary => "if a temporary greeting is on: record or remove it",
        Action::Record(GreetingKind::Standard) => "record the greeting",
        Action::Record(GreetingKind::Busy) => "record the busy greeting",
        Action::Record(GreetingKind::Temporary) => "record a temporary greeting",
        Action::Record(GreetingKind::Name) => "record the name",
        Action::RemoveTemporary => "remove it",
        Action::ChangePin => "choose a new PIN",
        Action::Accept => "keep it",
        Action::Listen => "hear it",
        Action::Again => "record it again",
        Action::Cancel => "throw it away and go back",
    }
}
