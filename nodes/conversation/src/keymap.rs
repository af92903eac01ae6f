//! What each key does in each menu: data. Two maps, after the two systems that most people have used.

use crate::{GreetingKind, Prompt, names::*, phrases};

/// The keys of a telephone, in the order of its keypad.
pub const KEYPAD: [char; 12] = ['1', '2', '3', '4', '5', '6', '7', '8', '9', '*', '0', '#'];

/// A place where keys do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Menu {
    /// A caller hears the greeting.
    Greeting,
    /// Something is being recorded.
    Recording,
    /// A number or PIN is being entered; digits are taken as such.
    Entry,
    /// Signed in.
    Main,
    /// Choosing new or old messages.
    Folders,
    /// A message is playing, or what is said before it.
    Playing,
    /// A message has been played.
    Played,
    /// More to do with a message.
    Advanced,
    /// Settings of the mailbox.
    Setup,
    /// Greetings.
    Greetings,
    /// PIN and name.
    Personal,
    /// There is a temporary greeting.
    Temporary,
    /// The prompt before a greeting or name is recorded.
    Tone,
    /// A greeting or name has been recorded.
    Review,
}

/// What a key does.
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
    /// Enter it again from the start.
    StartOver,
    /// Hear the new messages.
    PlayNew,
    /// Hear the old messages.
    PlayOld,
    /// Choose new or old messages.
    Folders,
    /// Say the menu again.
    Help,
    /// End the call.
    Exit,
    /// Go to the main menu.
    Main,
    /// Go to the first message.
    First,
    /// Go to the message before.
    Previous,
    /// Go to the next message.
    Next,
    /// Play the message from its beginning.
    Repeat,
    /// Stop playing and hear what can be done.
    SkipToEnd,
    /// Delete the message.
    Delete,
    /// Take the deletion back.
    Undelete,
    /// Save the message.
    Save,
    /// More to do with the message.
    Advanced,
    /// Hear when the message came and from whom.
    Envelope,
    /// Back to the message.
    Back,
    /// Settings of the mailbox.
    Setup,
    /// Greetings.
    Greetings,
    /// PIN and name.
    Personal,
    /// The temporary greeting that is on.
    Temporary,
    /// Record a greeting or the name.
    Record(GreetingKind),
    /// Switch the temporary greeting off.
    RemoveTemporary,
    /// Choose a new PIN.
    ChangePin,
    /// Keep the recording.
    Accept,
    /// Hear the recording.
    Listen,
    /// Record again.
    Again,
    /// Throw the recording away.
    Cancel,
}

/// One key of a menu.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The key.
    pub key: char,
    /// What it does.
    pub action: Action,
    /// The prompts that say so; none where the prompt of a key before covers it.
    pub says: &'static [&'static str],
}

/// What a menu depends on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts {
    /// There are new messages.
    pub new: bool,
    /// There are old messages.
    pub old: bool,
    /// There is a message before this one.
    pub previous: bool,
    /// There is a message after this one.
    pub next: bool,
    /// The message is deleted.
    pub deleted: bool,
    /// A temporary greeting is on.
    pub temporary: bool,
}

/// The keys of a mailbox owner.
#[derive(Debug)]
pub struct KeyMap {
    /// As the configuration names it.
    pub name: &'static str,
    /// After saving or deleting a message the next one plays, and after the last one comes the main menu. Otherwise
    /// the caller stays on the message.
    pub advances: bool,
    menus: &'static [(Menu, &'static [Key])],
}

const fn key(key: char, action: Action, says: &'static [&'static str]) -> Key {
    Key { key, action, says }
}

/// Keys that are the same in every map.
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

/// Cisco Unity Connection's keys, as far as it has the same functions. It has no key for the message before;
/// here that is 7, which rewinds there.
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

    /// The map of that name. One that does not exist gives the default: a caller is never left without keys.
    /// (The configuration refuses unknown names.)
    pub fn named(name: &str) -> &'static Self {
        Self::all().into_iter().find(|map| map.name == name).unwrap_or(&ASTERISK)
    }

    /// The keys of a menu, in the order in which they are said; none if the map lacks the menu.
    pub fn keys(&self, menu: Menu) -> &'static [Key] {
        self.menus.iter().chain(COMMON).find(|(m, _)| *m == menu).map_or(&[], |(_, keys)| keys)
    }

    /// What a key does here. Where two actions share it, the first that fits the facts; if none does, the first.
    pub fn action(&self, menu: Menu, key: char, facts: &Facts) -> Option<Action> {
        let mut bound = self.keys(menu).iter().filter(|k| k.key == key).map(|k| k.action);
        let first = bound.clone().next();
        bound.find(|action| action.fits(facts)).or(first)
    }

    /// The menu in words: what each key does that does something now.
    pub fn options(&self, menu: Menu, facts: &Facts) -> Vec<Prompt> {
        let now = |k: &&Key| k.action.fits(facts) && self.action(menu, k.key, facts) == Some(k.action);
        self.keys(menu).iter().filter(now).flat_map(|k| phrases::all(k.says)).collect()
    }
}

impl Action {
    /// Whether it makes sense now.
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
