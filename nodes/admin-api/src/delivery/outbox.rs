//! The outbox: effects that wait, failed, were given up or are done.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::Duration,
};

use tonic::Status;
use tracing::info;
use twinbox_admin_kit::{Part, part};
use twinbox_clock::BootInstant;
use twinbox_ids::{DeviceId, EffectId, MailboxId};
use twinbox_mailstore::{MailError, OutboxError};
use twinbox_outbox::{Channel, Effect, EffectState, Hold, NewEffect, Transition};
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
/// Maximum number of effects in one part of a list: the names of each are read.
const PER_PART: u32 = 1_000;
/// Minimum length of the beginning of an id.
const SHORTEST_PREFIX: usize = 4;
/// Time for the retries of one request, below the time that the command line waits.
const RETRY_WITHIN: Duration = Duration::from_secs(10);

/// Effects, newest first.
pub async fn list(node: &AdminHandles, request: OutboxListRequest) -> Result<OutboxListReply, Status> {
    let OutboxListRequest { state, channel, most, limit, after, destination } = request;
    all_records(node)?;
    let words = [&STATES.map(EffectState::word)[..], &[HELD]].concat();
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
        let state = match state.as_str() {
            "" => effect.state() != EffectState::Done,
            state => word(effect, hold_of(node, effect)?.as_ref()) == state,
        };
        if !state || !(channel.is_empty() || effect.new.channel.word() == channel) {
            return Ok(false);
        }
        let Some(destination) = &destination else { return Ok(true) };
        Ok(node.mailstore.destinations(effect).map_err(internal)?.contains(destination))
    };
    let limit = limit.filter(|limit| *limit > 0).map_or(PER_PART, |limit| limit.min(PER_PART));
    let mut effects: Vec<(String, Effect)> = Vec::new();
    for effect in read_all(node).await? {
        if wanted(&effect)? {
            effects.push((format!("{:020}.{}", u64::MAX - effect.new.created.0, effect.id), effect));
        }
    }
    effects.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    effects.truncate(most.map_or(usize::MAX, |most| most as usize));
    let mut names = Names::default();
    let mut rows = Vec::new();
    // One more than the part shows that there is another part.
    let part_and_one = effects.into_iter().filter(|(cursor, _)| *cursor > after).take(limit as usize + 1);
    for (cursor, effect) in part_and_one {
        rows.push((cursor, names.show(node, &effect).await?));
    }
    let Part { items, next } = part(Some(limit), &after, rows, Ok::<_, Status>)?;
    Ok(OutboxListReply { effects: items, next })
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
        let mut dead = read_all(node).await?;
        dead.retain(|effect| effect.state() == EffectState::Dead);
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

async fn read_all(node: &AdminHandles) -> Result<Vec<Effect>, Status> {
    node.mailstore.effects().await.map_err(internal)
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
    let fallback = device(effect.new.target).and_then(|device| device.fallback);
    let mut found = Vec::new();
    for other in read_all(node).await? {
        let Some(relation) = relation(&effect.new, &other.new, fallback) else { continue };
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

/// Relation of an effect to one that it followed from; `None` if it did not.
fn relation(effect: &NewEffect, other: &NewEffect, fallback: Option<DeviceId>) -> Option<&'static str> {
    if effect.cause != other.cause {
        return None;
    }
    let same = (effect.target, effect.channel) == (other.target, other.channel);
    // The repeat of a test only makes its id unique.
    let first = effect.cause.transition == Transition::Filed && other.retry == 0;
    match () {
        () if same && other.repeat == effect.repeat && other.retry == effect.retry.saturating_add(1) => {
            Some("retry")
        }
        () if same && first && other.repeat == effect.repeat.saturating_add(1) => Some("reminder"),
        () if !same && first && other.repeat == 0 && fallback == Some(other.target) => Some("fallback"),
        () => None,
    }
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
    let mut found = read_all(node).await?;
    found.retain(|effect| effect.id.to_string().starts_with(&id.to_ascii_lowercase()));
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
            Transition::Test => String::new(),
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
        let fallback = DeviceId(9);
        let other_message = Cause { message: MessageId(7), ..base.cause };
        for (other, expected) in [
            (NewEffect { retry: 1, ..base }, Some("retry")),
            (NewEffect { repeat: 1, ..base }, Some("reminder")),
            (NewEffect { target: fallback, channel: Channel::Mail, ..base }, Some("fallback")),
            (NewEffect { target: DeviceId(8), ..base }, None),
            (NewEffect { retry: 2, ..base }, None),
            (NewEffect { retry: 1, cause: other_message, ..base }, None),
            (base, None),
        ] {
            assert_eq!(relation(&base, &other, Some(fallback)), expected, "{other:?}");
        }
        let test = NewEffect { cause: Cause { transition: Transition::Test, ..base.cause }, ..base };
        assert_eq!(relation(&test, &NewEffect { repeat: 1, ..test }, None), None, "a later test");
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
