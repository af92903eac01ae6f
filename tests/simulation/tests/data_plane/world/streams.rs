//! Streams: changes are sent, wait in the memory of the follower, and are synced there. Audio comes with the change that names it,
//! or is fetched later.

use super::{
    super::{
        Mistake, mailbox,
        member::{Change, Number},
    },
    World,
};

/// A change that a member was sent and has not synced. It goes with its stream.
pub(super) struct InFlight {
    from: usize,
    number: Number,
    change: Change,
    audio: Option<(u8, Audio)>,
}

/// The audio that such a change names.
#[derive(Debug, Clone, Copy)]
enum Audio {
    /// The follower said that it has it: nothing is sent, and it is pinned (rule D9).
    Here,
    /// It is sent with the change.
    Comes,
    /// The sender does not have it.
    Missing,
}

impl InFlight {
    fn is_from(&self, member: usize) -> bool {
        self.from == member
    }

    /// The audio that must stay until the change is synced. A pin lasts longer than that takes.
    pub(super) fn pinned(&self) -> Option<u8> {
        match self.audio {
            Some((audio, Audio::Here)) => Some(audio),
            _ => None,
        }
    }
}

impl World {
    /// Some changes of the log are sent to another member, each with its audio if the sender has it.
    pub(super) fn send(&mut self, from: usize, to: usize) {
        let (source, own) = (&self.members[from], &self.members[to]);
        let lacks = |number: Number| {
            let is_sent = self.in_flight[to].iter().any(|waiting| waiting.number == number);
            !own.covers(number) && !is_sent
        };
        let next = source.log.iter().filter(|(number, _)| lacks(**number)).take(4);
        let audio_of = |change: &Change| {
            let audio = change.audio()?;
            let way = match (own.audio.contains(&audio), source.audio.contains(&audio)) {
                (true, _) => Audio::Here,
                (false, true) => Audio::Comes,
                (false, false) => Audio::Missing,
            };
            Some((audio, way))
        };
        let in_flight = |(number, change): (&Number, &Change)| InFlight {
            from,
            number: *number,
            change: change.clone(),
            audio: audio_of(change),
        };
        let sent: Vec<InFlight> = next.map(in_flight).collect();
        if self.mistake == Mistake::AcknowledgedWhenSent {
            let own_changes = sent.iter().filter(|sent| Some(sent.number.0) == source.origin);
            for sent in own_changes {
                self.promises.entry(sent.number).or_default().extend(self.disks[to]);
            }
        }
        self.in_flight[to].extend(sent);
    }

    /// A member syncs what it was sent.
    pub(super) fn sync(&mut self, at: usize) {
        for InFlight { number, change, audio, .. } in std::mem::take(&mut self.in_flight[at]) {
            self.apply(at, number, &change);
            let member = &mut self.members[at];
            match audio.filter(|_| member.covers(number)) {
                Some((audio, Audio::Comes)) => member.store_audio(audio),
                Some((audio, Audio::Missing)) => member.note_audio(audio),
                Some((_, Audio::Here)) | None => {}
            }
        }
    }

    /// Sends, and syncs at once.
    pub(super) fn stream(&mut self, from: usize, to: usize) {
        self.send(from, to);
        self.sync(to);
    }

    /// The streams of a member end, both ways.
    pub(super) fn end_streams(&mut self, at: usize) {
        self.in_flight[at].clear();
        self.in_flight.iter_mut().for_each(|waiting| waiting.retain(|change| !change.is_from(at)));
    }

    /// A member gets the audio that its messages name and that another one has.
    pub(super) fn fetch(&mut self, from: usize, to: usize) {
        let wanted = self.members[to].rows.values().filter(|here| !here.is_deleted);
        let wanted: Vec<u8> = wanted.filter_map(|here| mailbox::named_audio(&here.message)).collect();
        for audio in wanted {
            if self.members[from].audio.contains(&audio) {
                self.members[to].store_audio(audio);
            }
        }
    }
}
