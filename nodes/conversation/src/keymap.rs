//! The key maps as data: action of each key in each menu. Two maps, modelled on the two most widely used systems.

use crate::{GreetingKind, Prompt, names::*, phrases};

/// The keys of a telephone, in keypad order.
pub const KEYPAD: [char; 12] = ['1', '2', '3', '4', '5', '6', '7', '8', '9', '*', '0', '#'];

/// A menu: a state in which keys have actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Menu {
    /// The greeting is playing.
    Greeting,
    /// A recording is in progress.
    Recording,
    /// A number or PIN is being entered; digits have no other action.
    Entry,
    /// Main menu after sign-in.
    Main,
    /// Choice of new or old messages.
    Folders,
    /// A message or its introduction is playing.
    Playing,
    /// After the end of a message.
    Played,
    /// More actions for a message.
    Advanced,
    /// Settings of the mailbox.
    Setup,
    /// Greetings.
    Greetings,
    /// PIN and name.
    Personal,
    /// Options of the enabled temporary greeting.
    Temporary,
    /// Prompt before the recording of a greeting or name.
    Tone,
    /// Review of a recorded greeting or name.
    Review,
}

/// Action of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Action {
    /// Skip to the tone.
    SkipToTone,
    /// Sign in to this mailbox.
    SignIn,
    /// Go to the operator.
    Operator,
    /// End the recording.
    Finish,
    /// End the number or PIN.
    Submit,
    /// Restart the entry.
    StartOver,
    /// Hear the new messages.
    PlayNew,
    /// Hear the old messages.
    PlayOld,
    /// Choose new or old messages.
    Folders,
    /// Repeat the menu.
    Help,
    /// End the call.
    Exit,
    /// Go to the main menu.
    Main,
    /// Go to the first message.
    First,
    /// Go to the previous message.
    Previous,
    /// Go to the next message.
    Next,
    /// Play the message from its beginning.
    Repeat,
    /// Stop playing and hear the options.
    SkipToEnd,
    /// Delete the message.
    Delete,
    /// Undo the deletion.
    Undelete,
    /// Save the message.
    Save,
    /// More actions for the message.
    Advanced,
    /// Hear date, time and caller of the message.
    Envelope,
    /// Back to the message.
    Back,
    /// Settings of the mailbox.
    Setup,
    /// Greetings.
    Greetings,
    /// PIN and name.
    Personal,
    /// The enabled temporary greeting.
    Temporary,
    /// Record a greeting or the name.
    Record(GreetingKind),
    /// Disable the temporary greeting.
    RemoveTemporary,
    /// Choose a new PIN.
    ChangePin,
    /// Keep the recording.
    Accept,
    /// Hear the recording.
    Listen,
    /// Record again.
    Again,
    /// Discard the recording.
    Cancel,
}

/// One key of a menu.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The key.
    pub key: char,
    /// Its action.
    pub action: Action,
    /// Prompts that announce the key; empty if the prompt of a previous key covers it.
    pub says: &'static [&'static str],
}

/// Conditions that decide which keys a menu offers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts {
    /// There are new messages.
    pub new: bool,
    /// There are old messages.
    pub old: bool,
    /// There is a previous message.
    pub previous: bool,
    /// There is a next message.
    pub next: bool,
    /// The message is deleted.
    pub deleted: bool,
    /// A temporary greeting is enabled.
    pub temporary: bool,
}

/// A key map for mailbox owners.
#[derive(Debug)]
pub struct KeyMap {
    /// Name in the configuration.
    pub name: &'static str,
    /// After a message is saved or deleted the next one plays; after the last one follows the main menu. If false, the
    /// caller stays on the message.
    pub advances: bool,
    menus: &'static [(Menu, &'static [Key])],
}

const fn key(key: char, action: Action, says: &'static [&'static str]) -> Key {
    Key { key, action, says }
}

/// Keys shared by all maps.
const COMMON: &[(Menu, &[Key])] = &[
    (
        Menu::Greeting,
        &[key('*', Action::SignIn, &[]), key('0', Action::Operator, &[]), key('#', Action::SkipToTone, &[])],
    ),
    (Menu::Recording, &[key('#', Action::Finish, &[])]),
    (Menu::Entry, &[key('*', Action::StartOver, &[]), key('#', Action::Submit, &[])]),
    (
        Menu::Temporary,
        &[
            key('1', Action::Record(GreetingKind::Temporary), &[TEMPORARY_OPTIONS]),
            key('2', Action::RemoveTemporary, &[]),
            key('*', Action::Main, &[]),
        ],
    ),
    (Menu::Tone, &[key('*', Action::Cancel, &[]), key('#', Action::SkipToTone, &[])]),
    (
        Menu::Review,
        &[
            key('1', Action::Accept, &[REVIEW]),
            key('2', Action::Listen, &[]),
            key('3', Action::Again, &[]),
            key('*', Action::Cancel, &[STAR_TO_CANCEL]),
        ],
    ),
];

const ASTERISK_MESSAGE: &[Key] = &[
    key('1', Action::First, &[]),
    key('2', Action::Folders, &[]),
    key('4', Action::Previous, &[KEY_PREVIOUS]),
    key('3', Action::Advanced, &[KEY_ADVANCED]),
    key('5', Action::Repeat, &[KEY_REPEAT]),
    key('6', Action::Next, &[KEY_NEXT]),
    key('7', Action::Undelete, &[KEY_UNDELETE]),
    key('7', Action::Delete, &[KEY_DELETE]),
    key('9', Action::Save, &[KEY_SAVE]),
    key('*', Action::Help, &[HELP_OR_EXIT]),
    key('0', Action::Setup, &[]),
    key('#', Action::Exit, &[]),
];

/// Asterisk's VoiceMailMain.
static ASTERISK: KeyMap = KeyMap {
    name: "asterisk",
    advances: false,
    menus: &[
        (
            Menu::Main,
            &[
                key('1', Action::PlayNew, &[ONE_FOR, NEW, MESSAGES]),
                key('1', Action::PlayOld, &[ONE_FOR, OLD, MESSAGES]),
                key('2', Action::Folders, &[OPTIONS]),
                key('*', Action::Help, &[HELP_OR_EXIT]),
                key('0', Action::Setup, &[]),
                key('#', Action::Exit, &[]),
            ],
        ),
        (
            Menu::Folders,
            &[
                key('0', Action::PlayNew, &[CHANGE_TO, PRESS, KEY_0, FOR, NEW, MESSAGES]),
                key('1', Action::PlayOld, &[PRESS, KEY_1, FOR, OLD, MESSAGES]),
                key('#', Action::Main, &[OR_POUND_TO_CANCEL]),
            ],
        ),
        (Menu::Playing, ASTERISK_MESSAGE),
        (Menu::Played, ASTERISK_MESSAGE),
        (
            Menu::Advanced,
            &[key('3', Action::Envelope, &[KEY_ENVELOPE]), key('*', Action::Back, &[PRESS, STAR, TO_GO_BACK])],
        ),
        (
            Menu::Setup,
            &[
                key('1', Action::Record(GreetingKind::Standard), &[MAILBOX_OPTIONS]),
                key('2', Action::Record(GreetingKind::Busy), &[]),
                key('3', Action::Record(GreetingKind::Name), &[]),
                key('4', Action::Temporary, &[]),
                key('4', Action::Record(GreetingKind::Temporary), &[]),
                key('5', Action::ChangePin, &[]),
                key('*', Action::Main, &[]),
            ],
        ),
    ],
};

/// Cisco Unity Connection's keys, for the functions that exist here. Unity has no key for the previous message; this
/// map uses 7, Unity's key for rewind.
static UNITY: KeyMap = KeyMap {
    name: "unity",
    advances: true,
    menus: &[
        (
            Menu::Main,
            &[
                key('1', Action::PlayNew, &[PRESS, KEY_1, TO_HEAR_NEW]),
                key('3', Action::PlayOld, &[PRESS, KEY_3, TO_HEAR_OLD]),
                key('4', Action::Setup, &[PRESS, KEY_4, TO_SET_UP]),
                key('0', Action::Help, &[PRESS, KEY_0, FOR_HELP]),
                key('*', Action::Exit, &[PRESS, STAR, TO_EXIT]),
            ],
        ),
        (
            Menu::Playing,
            &[
                key('1', Action::Repeat, &[PRESS, KEY_1, TO_REPEAT]),
                key('2', Action::Save, &[PRESS, KEY_2, TO_SAVE]),
                key('3', Action::Undelete, &[PRESS, KEY_3, TO_UNDELETE]),
                key('3', Action::Delete, &[PRESS, KEY_3, TO_DELETE]),
                key('7', Action::Previous, &[PRESS, KEY_7, TO_GO_TO_PREVIOUS]),
                key('9', Action::SkipToEnd, &[PRESS, KEY_9, TO_SKIP_TO_END]),
                key('#', Action::Next, &[PRESS, POUND, TO_SKIP]),
                key('0', Action::Help, &[PRESS, KEY_0, FOR_HELP]),
                key('*', Action::Main, &[PRESS, STAR, TO_RETURN_TO_MAIN]),
            ],
        ),
        (
            Menu::Played,
            &[
                key('1', Action::Repeat, &[PRESS, KEY_1, TO_REPEAT]),
                key('2', Action::Save, &[PRESS, KEY_2, TO_SAVE]),
                key('3', Action::Undelete, &[PRESS, KEY_3, TO_UNDELETE]),
                key('3', Action::Delete, &[PRESS, KEY_3, TO_DELETE]),
                key('7', Action::Previous, &[PRESS, KEY_7, TO_GO_TO_PREVIOUS]),
                key('9', Action::Envelope, &[PRESS, KEY_9, TO_HEAR_ENVELOPE]),
                key('#', Action::Next, &[PRESS, POUND, TO_SKIP]),
                key('0', Action::Help, &[PRESS, KEY_0, FOR_HELP]),
                key('*', Action::Main, &[PRESS, STAR, TO_RETURN_TO_MAIN]),
            ],
        ),
        (
            Menu::Setup,
            &[
                key('1', Action::Greetings, &[PRESS, KEY_1, TO_CHANGE_GREETINGS]),
                key('3', Action::Personal, &[PRESS, KEY_3, TO_CHANGE_PERSONAL]),
                key('0', Action::Help, &[PRESS, KEY_0, FOR_HELP]),
                key('*', Action::Main, &[PRESS, STAR, TO_RETURN_TO_MAIN]),
            ],
        ),
        (
            Menu::Greetings,
            &[
                key('1', Action::Record(GreetingKind::Standard), &[PRESS, KEY_1, TO_RECORD_STANDARD]),
                key('2', Action::Record(GreetingKind::Busy), &[PRESS, KEY_2, TO_RECORD_BUSY]),
                key('3', Action::Temporary, &[PRESS, KEY_3, TO_RECORD_TEMPORARY]),
                key('3', Action::Record(GreetingKind::Temporary), &[PRESS, KEY_3, TO_RECORD_TEMPORARY]),
                key('0', Action::Help, &[PRESS, KEY_0, FOR_HELP]),
                key('*', Action::Setup, &[PRESS, STAR, TO_GO_BACK]),
            ],
        ),
        (
            Menu::Personal,
            &[
                key('1', Action::ChangePin, &[PRESS, KEY_1, TO_CHANGE_PIN]),
                key('2', Action::Record(GreetingKind::Name), &[PRESS, KEY_2, TO_RECORD_NAME]),
                key('0', Action::Help, &[PRESS, KEY_0, FOR_HELP]),
                key('*', Action::Setup, &[PRESS, STAR, TO_GO_BACK]),
            ],
        ),
    ],
};

impl KeyMap {
    /// All maps; the first is the default.
    pub fn all() -> [&'static Self; 2] {
        [&ASTERISK, &UNITY]
    }

    /// The map of that name; the default for an unknown name, so that a caller always has keys. (The configuration
    /// rejects unknown names.)
    pub fn named(name: &str) -> &'static Self {
        Self::all().into_iter().find(|map| map.name == name).unwrap_or(&ASTERISK)
    }

    /// The keys of a menu, in the order of announcement; empty if the map lacks the menu.
    pub fn keys(&self, menu: Menu) -> &'static [Key] {
        self.menus.iter().chain(COMMON).find(|(m, _)| *m == menu).map_or(&[], |(_, keys)| keys)
    }

    /// Action of a key. If several actions share the key, the first that fits the facts; if none fits, the first.
    pub fn action(&self, menu: Menu, key: char, facts: &Facts) -> Option<Action> {
        let mut bound = self.keys(menu).iter().filter(|k| k.key == key).map(|k| k.action);
        let first = bound.clone().next();
        bound.find(|action| action.fits(facts)).or(first)
    }

    /// The announcement of a menu: prompts of the keys that are available now.
    pub fn options(&self, menu: Menu, facts: &Facts) -> Vec<Prompt> {
        let now = |k: &&Key| k.action.fits(facts) && self.action(menu, k.key, facts) == Some(k.action);
        self.keys(menu).iter().filter(now).flat_map(|k| phrases::all(k.says)).collect()
    }
}

impl Action {
    /// Whether the action is available under these facts.
    fn fits(self, facts: &Facts) -> bool {
        match self {
            Self::PlayNew => facts.new,
            Self::PlayOld => facts.old,
            Self::Previous => facts.previous,
            Self::Next => facts.next,
            Self::Delete => !facts.deleted,
            Self::Undelete => facts.deleted,
            Self::Temporary => facts.temporary,
            _ => true,
        }
    }
}
