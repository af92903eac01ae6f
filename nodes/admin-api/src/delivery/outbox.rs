//! The outbox: effects that wait, failed, were given up or are done.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    str::FromStr,
    time::Duration,
};

use tonic::Status;
use tracing::info;
use twinbox_admin_kit::{Part, part};
use twinbox_clock::BootInstant;
use twinbox_ids::{DeviceId, EffectId, MailboxId, Timestamp};
use twinbox_mailstore::{MailError, OutboxError, channel_of};
use twinbox_outbox::{Channel, Effect, EffectState, Hold, NewEffect, Phase, Transition};
use twinbox_wire::delivery::{
    self, Changed, FollowingEffect, OutboxListReply, OutboxListRequest, OutboxRetryReply, OutboxRetryRequest,
};

use super::{changed, holds, unknown};
use crate::{
    AdminHandles,
    admin::{all_records, internal, mail},
};

/// States in display order.
const STATES: [EffectState; 4] = [EffectState::Pending, EffectState::Failed, EffectState::Dead, EffectState::Done];
/// State in lists of an effect that waits for the hold of its destination.
const HELD: &str = "held";
/// State in lists of effects that were taken, and of which a report of failure came back later.
const BOUNCED: &str = "bounced";
/// Maximum number of effects in one part of a list: the names of each are read.
const PER_PART: u32 = 1_000;
/// Number of effects that are read at a time, and for one part: with few that are wanted, the part is short.
const PER_READ: usize = 500;
const MOST_READ: usize = 10_000;
/// Minimum length of the beginning of an id.
const SHORTEST_PREFIX: usize = 4;
/// Time for the retries of one request, below the time that the command line waits.
const RETRY_WITHIN: Duration = Duration::from_secs(10);

/// Effects, newest first.
pub async fn list(node: &AdminHandles, request: OutboxListRequest) -> Result<OutboxListReply, Status> {
    let OutboxListRequest { state, channel, most, limit, after, destination } = request;
    all_records(node)?;
    let words = [&STATES.map(EffectState::word)[..], &[HELD, BOUNCED]].concat();
    if !state.is_empty() && !words.contains(&state.as_str()) {
        return Err(unknown("state", &state, &words));
    }
    if !channel.is_empty() && !Channel::ALL.iter().any(|known| known.word() == channel) {
        return Err(unknown("channel", &channel, &Channel::ALL.map(Channel::word)));
    }
    let destination = match destination.as_str() {
        "" => None,
        text => Some(holds::parse(text)?),
    };
    let wanted = |effect: &Effect| -> Result<bool, Status> {
        let is_in_state = match state.as_str() {
            "" => true,
            BOUNCED => effect.bounced.is_some(),
            state => word(effect, hold_of(node, effect)?.as_ref()) == state,
        };
        if !is_in_state || !(channel.is_empty() || effect.new.channel.word() == channel) {
            return Ok(false);
        }
        let Some(destination) = &destination else { return Ok(true) };
        Ok(node.mailstore.destinations(effect).map_err(internal)?.contains(destination))
    };
    let phases: &[Phase] = match state.as_str() {
        "" => &[Phase::Open, Phase::Dead],
        "dead" => &[Phase::Dead],
        "done" => &[Phase::Done],
        BOUNCED => &[Phase::Done, Phase::Dead],
        _ => &[Phase::Open],
    };
    let limit = limit.filter(|limit| *limit > 0).map_or(PER_PART, |limit| limit.min(PER_PART));
    let mut at: Cursor = after.parse()?;
    let most = most.map_or(u64::MAX, u64::from);
    let mut names = Names::default();
    let (mut rows, mut read, mut at_end) = (Vec::new(), 0, false);
    // One more than the part shows that there is another part.
    while !at_end && read < MOST_READ && rows.len() <= limit as usize {
        let found = node.mailstore.newest_effects(phases, at.behind, PER_READ).await.map_err(internal)?;
        at_end = found.is_empty();
        read += found.len();
        for effect in found {
            at_end |= at.listed >= most;
            if at_end || rows.len() > limit as usize {
                break;
            }
            at.behind = Some((effect.new.created, effect.id));
            if wanted(&effect)? {
                at.listed += 1;
                rows.push((at.to_string(), names.show(node, &effect).await?));
            }
        }
    }
    let Part { items, mut next } = part(Some(limit), "", rows, Ok::<_, Status>)?;
    if next.is_empty() && !at_end {
        next = at.to_string();
    }
    Ok(OutboxListReply { effects: items, next })
}

/// A place in the list.
#[derive(Debug, Default, PartialEq, Eq)]
struct Cursor {
    /// Behind the effect that was created then and has this id.
    behind: Option<(Timestamp, EffectId)>,
    /// Number of effects in the list up to there.
    listed: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((created, id)) = &self.behind else { return Ok(()) };
        // In the order of the list.
        write!(f, "{:020}.{id}.{}", u64::MAX - created.0, self.listed)
    }
}

impl FromStr for Cursor {
    type Err = Status;

    fn from_str(text: &str) -> Result<Self, Status> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let read = || {
            let mut parts = text.split('.');
            let created = u64::MAX - parts.next()?.parse::<u64>().ok()?;
            let id = parts.next()?.parse().ok()?;
            Some(Self { behind: Some((Timestamp(created), id)), listed: parts.next()?.parse().ok()? })
        };
        read().ok_or_else(|| Status::invalid_argument("the place in the list is unknown: begin the list again"))
    }
}

/// One effect, with those that followed from it.
pub async fn show(node: &AdminHandles, id: &str) -> Result<delivery::Effect, Status> {
    let effect = find(node, id).await?;
    let shown = Names::default().show(node, &effect).await?;
    Ok(delivery::Effect { follows: following(node, &effect).await?, ..shown })
}

/// Has one effect, or all dead ones, attempted again.
pub async fn retry(node: &AdminHandles, request: OutboxRetryRequest) -> Result<OutboxRetryReply, Status> {
    let OutboxRetryRequest { id, all_dead } = request;
    let wanted = if all_dead {
        all_records(node)?;
        let mut dead = node.mailstore.newest_effects(&[Phase::Dead], None, usize::MAX).await.map_err(internal)?;
        // One that fails again is the newest: those that have not been attempted come first.
        dead.reverse();
        dead
    } else {
        vec![find(node, &id).await?]
    };
    let begun = BootInstant::now();
    let (count, mut ids) = (wanted.len(), Vec::new());
    for effect in wanted {
        if begun.elapsed() > RETRY_WITHIN {
            break;
        }
        ids.push(again(node, effect.id).await?.to_string());
    }
    info!(count = ids.len(), "administrator retries effects");
    let left = u64::try_from(count.saturating_sub(ids.len())).unwrap_or(u64::MAX);
    Ok(OutboxRetryReply { ids, left })
}

/// Gives an effect up: it counts as done.
pub async fn give_up(node: &AdminHandles, id: &str) -> Result<Changed, Status> {
    let effect = find(node, id).await?;
    let acknowledgement = node.mailstore.drop_effect(effect.id).await.map_err(refused)?;
    info!(effect = %effect.id, "administrator drops effect");
    Ok(changed(effect.id, &acknowledgement))
}

/// Retries an effect; returns the one that is attempted.
async fn again(node: &AdminHandles, id: EffectId) -> Result<EffectId, Status> {
    node.mailstore.retry_effect(id).await.map_err(refused)
}

/// The hold that keeps an effect from being attempted.
fn hold_of(node: &AdminHandles, effect: &Effect) -> Result<Option<Hold>, Status> {
    match effect.state().is_end() {
        true => Ok(None),
        false => node.mailstore.hold_of(effect).map_err(internal),
    }
}

/// The state of an effect as a word.
fn word(effect: &Effect, hold: Option<&Hold>) -> &'static str {
    if hold.is_some() { HELD } else { effect.state().word() }
}

/// Effects that followed from one that is at its end.
async fn following(node: &AdminHandles, effect: &Effect) -> Result<Vec<FollowingEffect>, Status> {
    if !effect.state().is_end() {
        return Ok(Vec::new());
    }
    let devices = node.mailstore.devices(effect.new.cause.mailbox).await.map_err(internal)?;
    let device = |id: DeviceId| devices.iter().find(|device| device.id == id);
    let fallback = device(effect.new.target).and_then(|device| device.fallback).and_then(device);
    let mut found = Vec::new();
    for (relation, id) in followers(&effect.new, fallback.map(|device| (device.id, channel_of(device)))) {
        let Some(other) = node.mailstore.effect(id).map_err(internal)? else { continue };
        found.push(FollowingEffect {
            id: other.id.to_string(),
            relation: relation.to_owned(),
            state: word(&other, hold_of(node, &other)?.as_ref()).to_owned(),
            device: device(other.new.target).map(|device| device.name.clone()).unwrap_or_default(),
            due_ms: if other.state().is_end() { 0 } else { other.due().0 },
        });
    }
    Ok(found)
}

/// The effects that may follow from one, with their relation to it: their ids derive from it.
fn followers(effect: &NewEffect, fallback: Option<(DeviceId, Channel)>) -> Vec<(&'static str, EffectId)> {
    let retry = NewEffect { retry: effect.retry.saturating_add(1), ..*effect };
    let mut all = vec![("retry", retry.id())];
    // The repeat of a test only makes its id unique.
    if effect.cause.transition == Transition::Filed {
        let reminder = NewEffect { repeat: effect.repeat.saturating_add(1), retry: 0, ..*effect };
        all.push(("reminder", reminder.id()));
        all.extend(fallback.map(|(target, channel)| {
            ("fallback", NewEffect { target, channel, repeat: 0, retry: 0, ..*effect }.id())
        }));
    }
    all
}

/// The effect with that id, or the only one whose id begins so.
async fn find(node: &AdminHandles, id: &str) -> Result<Effect, Status> {
    all_records(node)?;
    if let Ok(id) = id.parse::<EffectId>() {
        let effect = node.mailstore.effect(id).map_err(internal)?;
        return effect.ok_or_else(|| refused(OutboxError::None(id)));
    }
    if !is_prefix(id) {
        return Err(Status::invalid_argument(format!(
            "'{id}' is not an id of an effect: give at least {SHORTEST_PREFIX} of its hexadecimal digits, from 'twinbox \
             outbox list'"
        )));
    }
    let mut found = node.mailstore.effects_beginning(id, MOST_READ).await.map_err(internal)?;
    match (found.len(), found.pop()) {
        (1, Some(effect)) => Ok(effect),
        (0, _) => Err(Status::not_found(format!(
            "there is no effect {id}: 'twinbox outbox list' shows those that are not done"
        ))),
        (count, _) => {
            Err(Status::failed_precondition(format!("{count} effects begin with {id}: give more digits")))
        }
    }
}

fn is_prefix(text: &str) -> bool {
    (SHORTEST_PREFIX..=32).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn refused(error: OutboxError) -> Status {
    match error {
        OutboxError::None(_) => Status::not_found(error.to_string()),
        OutboxError::Done(_) => Status::failed_precondition(error.to_string()),
        OutboxError::Mail(error) => mail(error),
    }
}

/// Numbers of mailboxes and names of devices, read once for each mailbox.
#[derive(Default)]
struct Names(HashMap<MailboxId, (String, HashMap<DeviceId, String>)>);

impl Names {
    async fn show(&mut self, node: &AdminHandles, effect: &Effect) -> Result<delivery::Effect, Status> {
        let mailbox = effect.new.cause.mailbox;
        let (number, devices) = match self.0.entry(mailbox) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => {
                let number = match node.mailstore.get(mailbox).await {
                    Ok(found) => found.map(|found| found.number).unwrap_or_default(),
                    // As in the list of mailboxes: its effects can be handled all the same.
                    Err(MailError::View(_)) => String::new(),
                    Err(error) => return Err(internal(error)),
                };
                let devices = node.mailstore.devices(mailbox).await.map_err(internal)?;
                vacant.insert((number, devices.into_iter().map(|device| (device.id, device.name)).collect()))
            }
        };
        let device = match node.mailstore.location_of(effect).map_err(internal)? {
            Some(location) => location.name,
            None => devices.get(&effect.new.target).cloned().unwrap_or_default(),
        };
        Ok(shown(effect, number.clone(), device, hold_of(node, effect)?.as_ref()))
    }
}

fn shown(effect: &Effect, number: String, device: String, hold: Option<&Hold>) -> delivery::Effect {
    let state = effect.state();
    let end = effect.done.as_ref().or(effect.dead.as_ref());
    let latest = end.or(effect.failure.as_ref().map(|(_, failure)| failure));
    delivery::Effect {
        id: effect.id.to_string(),
        state: word(effect, hold).to_owned(),
        channel: effect.new.channel.word().to_owned(),
        number,
        device,
        attempts: effect.attempts(),
        under_way: effect.unfinished().is_some(),
        created_ms: effect.new.created.0,
        due_ms: if state.is_end() { 0 } else { effect.due().0 },
        ended_ms: end.map_or(0, |end| end.at.0),
        expires_ms: effect.new.expires.0,
        reason: latest.map(|latest| latest.text.clone()).unwrap_or_default(),
        message: match effect.new.cause.transition {
            Transition::Filed | Transition::Sent | Transition::Received => effect.new.cause.message.to_string(),
            Transition::Test
            | Transition::FirstPin
            | Transition::Quota
            | Transition::Ageing
            | Transition::CallReport => String::new(),
        },
        // Of a test it only makes the id unique.
        repeat: if effect.new.cause.transition == Transition::Test { 0 } else { effect.new.repeat },
        retries: effect.new.retry,
        held_by: hold.map(|hold| hold.destination.reveal().to_owned()).unwrap_or_default(),
        attempted_ms: effect.attempt.as_ref().map_or(0, |attempt| attempt.at.0),
        epoch: effect.attempt.as_ref().map(|attempt| attempt.epoch.clone()).unwrap_or_default(),
        failed_attempt: effect.failure.as_ref().map_or(0, |(number, _)| *number),
        failure: effect.failure.as_ref().map(|(_, failure)| failure.text.clone()).unwrap_or_default(),
        deaths: effect.deaths.map_or(0, |(_, count)| count),
        death_attempt: effect.deaths.map_or(0, |(attempt, _)| attempt),
        bounced_ms: effect.bounced.as_ref().map_or(0, |bounce| bounce.at.0),
        bounce: effect.bounced.as_ref().map(|bounce| bounce.text.clone()).unwrap_or_default(),
        follows: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use twinbox_ids::{Incarnation, MessageId, Timestamp};
    use twinbox_outbox::{Attempt, Cause, Ended, NewEffect};

    use super::*;

    fn effect() -> Effect {
        let cause = Cause { mailbox: MailboxId(1), message: MessageId(2), transition: Transition::Filed };
        let new = NewEffect {
            cause,
            channel: Channel::Pager,
            target: DeviceId(3),
            repeat: 0,
            retry: 0,
            created: Timestamp(1_000),
            not_before: Timestamp(2_000),
            expires: Timestamp(9_000),
        };
        Effect {
            id: new.id(),
            new,
            attempt: None,
            failure: None,
            done: None,
            dead: None,
            deaths: None,
            bounced: None,
            covers: Vec::new(),
            gathered: None,
            not_taken: 0,
        }
    }

    fn ended(at: u64, text: &str) -> Ended {
        Ended { at: Timestamp(at), text: text.to_owned() }
    }

    #[test]
    fn shown_effect_has_due_time_or_end_with_the_latest_reason() {
        let pending = effect();
        let failed = Effect { failure: Some((0, ended(3_000, "no answer"))), ..pending.clone() };
        let dead = Effect { dead: Some(ended(4_000, "refused")), ..failed.clone() };
        let done = Effect { done: Some(ended(5_000, "dropped")), ..dead.clone() };
        for (effect, expected) in [
            (pending, ("pending", 2_000, 0, "")),
            (failed, ("failed", 3_000, 0, "no answer")),
            (dead, ("dead", 0, 4_000, "refused")),
            (done, ("done", 0, 5_000, "dropped")),
        ] {
            let shown = shown(&effect, "1001".to_owned(), "pager".to_owned(), None);
            let found = (shown.state.as_str(), shown.due_ms, shown.ended_ms, shown.reason.as_str());
            assert_eq!(found, expected);
            assert_eq!((shown.number.as_str(), shown.device.as_str(), shown.under_way), ("1001", "pager", false));
        }
    }

    #[test]
    fn test_of_a_device_shows_no_message_and_no_repeat() {
        let mut test = effect();
        test.new.cause = Cause { message: MessageId(0), transition: Transition::Test, ..test.new.cause };
        test.new.repeat = 1_700_000_000;
        let shown = shown(&test, String::new(), String::new(), None);
        assert_eq!((shown.message.as_str(), shown.repeat), ("", 0));
    }

    #[test]
    fn shown_history_has_the_latest_attempt_the_failure_the_deaths_and_the_report_after_success() {
        let attempt =
            Attempt { number: 3, at: Timestamp(6_000), incarnation: Incarnation(1), epoch: "1.7@b".to_owned() };
        let done = Effect {
            attempt: Some(attempt),
            failure: Some((2, ended(4_000, "no answer"))),
            deaths: Some((1, 1)),
            done: Some(ended(6_500, "250 taken")),
            bounced: Some(ended(9_000, "550 no such user")),
            ..effect()
        };
        let shown = shown(&done, String::new(), String::new(), None);
        assert_eq!((shown.attempts, shown.attempted_ms, shown.epoch.as_str()), (3, 6_000, "1.7@b"));
        assert_eq!((shown.failed_attempt, shown.failure.as_str()), (2, "no answer"));
        assert_eq!((shown.deaths, shown.death_attempt), (1, 1));
        assert_eq!((shown.bounced_ms, shown.bounce.as_str()), (9_000, "550 no such user"));
        assert_eq!((shown.state.as_str(), shown.reason.as_str()), ("done", "250 taken"));
    }

    #[test]
    fn held_effect_names_the_destination_on_hold_and_keeps_its_failure() {
        let destination = "pager".parse().expect("a channel");
        let hold = Hold { destination, reason: String::new(), since: Timestamp(1), released: None };
        let failed = Effect { failure: Some((0, ended(3_000, "no answer"))), ..effect() };
        let shown = shown(&failed, String::new(), String::new(), Some(&hold));
        let found = (shown.state.as_str(), shown.held_by.as_str(), shown.reason.as_str());
        assert_eq!(found, ("held", "pager", "no answer"));
    }

    #[test]
    fn retries_reminders_and_fallbacks_follow_and_another_message_or_device_does_not() {
        let base = effect().new;
        let relation = |effect: &NewEffect, other: NewEffect| {
            let all = followers(effect, Some((DeviceId(9), Channel::Mail)));
            all.into_iter().find(|(_, id)| *id == other.id()).map(|(relation, _)| relation)
        };
        let other_message = Cause { message: MessageId(7), ..base.cause };
        for (other, expected) in [
            (NewEffect { retry: 1, ..base }, Some("retry")),
            (NewEffect { repeat: 1, ..base }, Some("reminder")),
            (NewEffect { target: DeviceId(9), channel: Channel::Mail, ..base }, Some("fallback")),
            (NewEffect { target: DeviceId(8), ..base }, None),
            (NewEffect { retry: 2, ..base }, None),
            (NewEffect { retry: 1, cause: other_message, ..base }, None),
            (base, None),
        ] {
            assert_eq!(relation(&base, other), expected, "{other:?}");
        }
        let test = NewEffect { cause: Cause { transition: Transition::Test, ..base.cause }, ..base };
        assert_eq!(relation(&test, NewEffect { repeat: 1, ..test }), None, "a later test");
    }

    #[test]
    fn place_in_the_list_is_read_as_it_was_written_and_another_text_is_refused() {
        let place = Cursor { behind: Some((Timestamp(1_700_000_000_000), EffectId(7))), listed: 42 };
        assert_eq!(place.to_string().parse::<Cursor>().expect("a place"), place);
        assert_eq!("".parse::<Cursor>().expect("the beginning"), Cursor::default());
        let older = Cursor { behind: Some((Timestamp(1), EffectId(1))), listed: 43 };
        assert!(place.to_string() < older.to_string(), "newest first");
        for text in ["7", "7.x.1", &format!("7.{}", EffectId(7))] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }

    #[test]
    fn beginning_of_an_id_has_four_hexadecimal_digits_or_more() {
        for (text, fine) in
            [("3fa9", true), ("3FA9b", true), ("3fa", false), ("", false), ("3fa9-", false), ("xyzz", false)]
        {
            assert_eq!(is_prefix(text), fine, "{text}");
        }
    }
}
