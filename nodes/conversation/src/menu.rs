//! Menus after sign-in: message counts, folders and settings. The actions on one message are in [`crate::listen`].

use serde::{Deserialize, Serialize};

use crate::{
    Answer, GreetingKind, Input, MailboxView, MessageView, Prompt, Question,
    entry::Idle,
    keymap::{Action, Facts, Menu},
    listen::Listen,
    machine::State,
    names,
    new_pin::NewPin,
    pending_requests::Context,
    phrases,
    record::Record,
};

/// An owner signed in to this mailbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) mailbox: MailboxView,
    /// A temporary greeting is enabled.
    pub(crate) temporary: bool,
    /// The owner has been reminded of the temporary greeting.
    reminded: bool,
}

impl Session {
    pub(crate) fn new(mailbox: MailboxView) -> Self {
        let temporary = mailbox.greetings.iter().any(|(kind, _)| *kind == GreetingKind::Temporary);
        Self { mailbox, temporary, reminded: false }
    }

    /// Goes to the main menu with the current messages.
    pub(crate) fn open(self, cx: &mut Context<'_>) -> State {
        self.open_with(Vec::new(), cx)
    }

    /// Plays `lead`, then goes to the main menu.
    pub(crate) fn open_with(self, lead: Vec<Prompt>, cx: &mut Context<'_>) -> State {
        cx.requests.ask(Question::ListMessages(self.mailbox.id));
        State::Menu(Menus {
            session: self,
            state: MenuState::Listing { lead, folders: false },
            idle: Idle::default(),
        })
    }

    /// Goes to the choice of new or old messages, with the current messages.
    pub(crate) fn folders(self, cx: &mut Context<'_>) -> State {
        cx.requests.ask(Question::ListMessages(self.mailbox.id));
        let state = MenuState::Listing { lead: Vec::new(), folders: true };
        State::Menu(Menus { session: self, state, idle: Idle::default() })
    }

    /// Plays `lead`, then goes to a menu without messages.
    pub(crate) fn menu(self, menu: Menu, lead: Vec<Prompt>, cx: &mut Context<'_>) -> State {
        Menus { session: self, state: MenuState::Plain(menu), idle: Idle::default() }.say(lead, cx)
    }
}

/// A menu.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Menus {
    session: Session,
    #[serde(rename = "place")]
    state: MenuState,
    idle: Idle,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum MenuState {
    /// The list of messages has been requested.
    Listing {
        lead: Vec<Prompt>,
        folders: bool,
    },
    Main(Messages),
    Folders(Messages),
    /// Setup, greetings, personal settings, temporary greeting.
    Plain(Menu),
    /// The removal of the temporary greeting has been requested.
    Removing,
}

/// The messages of a mailbox, oldest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Messages {
    new: Vec<MessageView>,
    old: Vec<MessageView>,
}

impl Menus {
    pub(crate) fn state_name(&self) -> &'static str {
        match self.state {
            MenuState::Listing { .. } => "menu/listing",
            MenuState::Main(_) => "menu/main",
            MenuState::Folders(_) => "menu/folders",
            MenuState::Plain(Menu::Greetings) => "menu/greetings",
            MenuState::Plain(Menu::Personal) => "menu/personal",
            MenuState::Plain(Menu::Temporary) => "menu/temporary",
            MenuState::Plain(_) => "menu/setup",
            MenuState::Removing => "menu/removing",
        }
    }

    pub(crate) fn on(mut self, input: Input, cx: &mut Context<'_>) -> State {
        match input {
            Input::Answer(answer) => self.answered(answer, cx),
            Input::Digit(key) => {
                self.idle.reset();
                self.key(key, cx)
            }
            Input::PlayFinished => {
                cx.wait_for_key();
                State::Menu(self)
            }
            Input::TimerFired if self.idle.another() => State::announce_and_end(&[names::GOODBYE], cx),
            Input::TimerFired => self.say(Vec::new(), cx),
            _ => State::Menu(self),
        }
    }

    fn answered(mut self, answer: Answer, cx: &mut Context<'_>) -> State {
        match (self.state, answer) {
            (MenuState::Listing { lead: words, folders }, Answer::Messages { new, old }) => {
                let messages = Messages { new, old };
                if folders {
                    self.state = MenuState::Folders(messages);
                    return self.say(words, cx);
                }
                let mut words = words;
                words.extend(phrases::counts(messages.new.len(), messages.old.len()));
                if self.session.temporary && !std::mem::replace(&mut self.session.reminded, true) {
                    words.push(phrases::named(names::TEMPORARY_ACTIVE));
                }
                self.state = MenuState::Main(messages);
                self.say(words, cx)
            }
            (MenuState::Listing { .. }, _) => State::not_working(cx),
            (MenuState::Removing, Answer::Done) => {
                self.session.temporary = false;
                self.session.menu(Menu::Setup, phrases::all(&[names::TEMPORARY_REMOVED]), cx)
            }
            (MenuState::Removing, _) => self.session.menu(Menu::Setup, phrases::all(&[names::FAILED]), cx),
            (state, _) => State::Menu(Self { state, ..self }),
        }
    }

    fn menu(&self) -> Menu {
        match self.state {
            MenuState::Main(_) | MenuState::Listing { .. } => Menu::Main,
            MenuState::Folders(_) => Menu::Folders,
            MenuState::Plain(menu) => menu,
            MenuState::Removing => Menu::Temporary,
        }
    }

    fn facts(&self) -> Facts {
        let (new, old) = match &self.state {
            MenuState::Main(messages) => (!messages.new.is_empty(), !messages.old.is_empty()),
            // Either folder may be chosen; an empty one says so.
            _ => (true, true),
        };
        Facts { new, old, temporary: self.session.temporary, ..Facts::default() }
    }

    /// Plays `lead`, then the menu.
    fn say(self, lead: Vec<Prompt>, cx: &mut Context<'_>) -> State {
        let mut words = lead;
        words.extend(cx.map().options(self.menu(), &self.facts()));
        cx.requests.play(words);
        State::Menu(self)
    }

    fn key(self, key: char, cx: &mut Context<'_>) -> State {
        let menu = self.menu();
        let Some(action) = cx.map().action(menu, key, &self.facts()) else {
            return self.say(phrases::all(&[names::SORRY]), cx);
        };
        match action {
            Action::PlayNew => self.listen(true, cx),
            Action::PlayOld => self.listen(false, cx),
            Action::Folders => match self.state {
                MenuState::Main(messages) => {
                    Self { state: MenuState::Folders(messages), ..self }.say(Vec::new(), cx)
                }
                _ => self.session.folders(cx),
            },
            Action::Main => self.session.open(cx),
            Action::Exit => State::announce_and_end(&[names::GOODBYE], cx),
            Action::Setup => self.session.menu(Menu::Setup, Vec::new(), cx),
            Action::Greetings => self.session.menu(Menu::Greetings, Vec::new(), cx),
            Action::Personal => self.session.menu(Menu::Personal, Vec::new(), cx),
            Action::Temporary => self.session.menu(Menu::Temporary, Vec::new(), cx),
            Action::Record(kind) => {
                let back = if menu == Menu::Temporary { Menu::Setup } else { menu };
                Record::start(self.session, kind, back, cx)
            }
            Action::RemoveTemporary => {
                cx.requests.ask(Question::RemoveGreeting(self.session.mailbox.id, GreetingKind::Temporary));
                State::Menu(Self { state: MenuState::Removing, ..self })
            }
            Action::ChangePin => NewPin::start(self.session, menu, cx),
            _ => self.say(Vec::new(), cx),
        }
    }

    /// Plays the new or the old messages; announces an empty folder.
    fn listen(self, new: bool, cx: &mut Context<'_>) -> State {
        match self.state {
            MenuState::Main(messages) | MenuState::Folders(messages) => {
                let chosen = if new { &messages.new } else { &messages.old };
                if chosen.is_empty() {
                    let none =
                        [names::YOU_HAVE, names::NO, if new { names::NEW } else { names::OLD }, names::MESSAGES];
                    return Self { state: MenuState::Main(messages), ..self }.say(phrases::all(&none), cx);
                }
                let chosen = if new { messages.new } else { messages.old };
                Listen::start(self.session, chosen, new, cx)
            }
            _ => State::Menu(self),
        }
    }
}
