//! Who answers for each of many addresses, and since when: ARP requests for all
//! that another host has, over and over, and what is announced meanwhile.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Args;
use herald_net::{Inbox, Traffic};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::{Wire, arp_request};
use crate::capture::Mac;
use crate::scenario::clients::parse_mac;
use crate::{duration, process};

/// Questions sent together.
const BATCH: usize = 64;
/// Between two batches: some 20,000 questions a second, which leaves the speakers
/// time for other things.
const PAUSE: Duration = Duration::from_millis(3);

const SENDER_MAC: std::ops::Range<usize> = 22..28;
const SENDER: std::ops::Range<usize> = 28..32;
const TARGET: std::ops::Range<usize> = 38..42;

/// Which addresses, and how long.
#[derive(Clone, Debug, Args)]
pub struct SurveyArguments {
    /// The first address.
    first: Ipv4Addr,
    /// How many addresses from there on.
    #[arg(long)]
    count: u32,
    /// On which interface.
    #[arg(long, default_value = "lan0")]
    interface: String,
    /// Give up after this long.
    #[arg(long = "for", default_value = "60s", value_parser = duration::parse)]
    duration: Duration,
}

/// One line of its output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Survey {
    /// Each address was answered for: how many by whom.
    Answered(BTreeMap<String, u32>),
    /// All that one host had are answered by others.
    Moved(Moved),
}

/// When the addresses of one host were others'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// How many there were.
    pub addresses: u32,
    /// How many are answered by others.
    pub answered: u32,
    /// How many others have announced.
    pub announced: u32,
    /// Milliseconds of the epoch when the first was answered by another host.
    pub first_answer: u64,
    /// When the last was.
    pub last_answer: u64,
    /// When the first was announced by another host, without being asked.
    pub first_announcement: u64,
    /// When the last was.
    pub last_announcement: u64,
}

/// A survey under way, in a host of the lab.
#[derive(Debug)]
pub struct Surveying {
    _child: Child,
    stdin: tokio::process::ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Surveying {
    /// Asks for `count` addresses from `first` on; returns when each has been
    /// answered for, with how many by whom.
    pub async fn start(
        host: &str,
        program: &Path,
        first: Ipv4Addr,
        count: u32,
    ) -> Result<(Self, BTreeMap<String, u32>)> {
        let mut command = Command::from(process::in_host(Some(host), program));
        let mut child = command
            .arg("__survey")
            .arg(first.to_string())
            .args(["--count", &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start the survey")?;
        let stdin = child.stdin.take().context("standard input is piped")?;
        let output = child.stdout.take().context("standard output is piped")?;
        let mut surveying = Self {
            _child: child,
            stdin,
            lines: BufReader::new(output).lines(),
        };
        match surveying.next().await? {
            Survey::Answered(owners) => Ok((surveying, owners)),
            other @ Survey::Moved(_) => bail!("the survey began with {other:?}"),
        }
    }

    /// From now on, the addresses of this host are watched for another owner.
    pub async fn watch(&mut self, lost: Mac) -> Result<()> {
        use tokio::io::AsyncWriteExt as _;
        self.stdin.write_all(format!("{lost}\n").as_bytes()).await?;
        self.stdin.flush().await?;
        Ok(())
    }

    /// Waits until all of them have been answered and announced by others.
    pub async fn moved(mut self) -> Result<Moved> {
        match self.next().await? {
            Survey::Moved(moved) => Ok(moved),
            other @ Survey::Answered(_) => bail!("the survey ended with {other:?}"),
        }
    }

    async fn next(&mut self) -> Result<Survey> {
        let line = self.lines.next_line().await?;
        let line = line.context("the survey ended too early; see the lab's log")?;
        serde_json::from_str(&line).with_context(|| format!("the survey said {line:?}"))
    }
}

/// What is known of the addresses.
struct Book {
    first: u32,
    /// Who answered for each, as far as somebody did.
    owners: Vec<Option<Mac>>,
    /// Of those that the lost host had: when another answered, and announced.
    answered: Vec<Option<u64>>,
    announced: Vec<Option<u64>>,
}

impl Book {
    fn new(first: Ipv4Addr, count: u32) -> Self {
        let many = count as usize;
        Self {
            first: first.to_bits(),
            owners: vec![None; many],
            answered: vec![None; many],
            announced: vec![None; many],
        }
    }

    /// Reads an ARP frame: whose address it says the sender has, and whether it is
    /// the answer to a question.
    fn read(&self, frame: &[u8]) -> Option<(usize, Mac, bool)> {
        if frame.get(12..14)? != [8, 6] {
            return None;
        }
        let answer = match frame.get(20..22)? {
            [0, 1] => false,
            [0, 2] => true,
            _ => return None,
        };
        let sender = u32::from_be_bytes(frame.get(SENDER)?.try_into().ok()?);
        let target = u32::from_be_bytes(frame.get(TARGET)?.try_into().ok()?);
        let mac = Mac(frame.get(SENDER_MAC)?.try_into().ok()?);
        // An announcement asks for the sender's own address.
        if !answer && sender != target {
            return None;
        }
        let place = usize::try_from(sender.checked_sub(self.first)?).ok()?;
        (place < self.owners.len()).then_some((place, mac, answer))
    }

    fn owners(&self) -> BTreeMap<String, u32> {
        let mut owners = BTreeMap::new();
        for mac in self.owners.iter().flatten() {
            *owners.entry(mac.to_string()).or_default() += 1;
        }
        owners
    }

    /// What became of these addresses.
    fn moved(&self, lost: &[usize]) -> Moved {
        let of = |times: &[Option<u64>]| {
            let mut known: Vec<u64> = lost.iter().filter_map(|place| times[*place]).collect();
            known.sort_unstable();
            known
        };
        let (answered, announced) = (of(&self.answered), of(&self.announced));
        let number = |many: usize| u32::try_from(many).unwrap_or(u32::MAX);
        let end = |times: &[u64], last: bool| {
            let time = if last { times.last() } else { times.first() };
            time.copied().unwrap_or_default()
        };
        Moved {
            addresses: number(lost.len()),
            answered: number(answered.len()),
            announced: number(announced.len()),
            first_answer: end(&answered, false),
            last_answer: end(&answered, true),
            first_announcement: end(&announced, false),
            last_announcement: end(&announced, true),
        }
    }
}

impl SurveyArguments {
    /// Asks for all, tells who has what, reads from standard input whom to watch,
    /// and tells when others have what that one had.
    pub async fn run(self) -> Result<()> {
        let wire = Wire::named(&self.interface).await?;
        let mut asker = Asker {
            socket: wire.open(Traffic::Arp)?,
            inbox: Inbox::new(),
            wire,
            book: Book::new(self.first, self.count),
        };
        let deadline = Instant::now() + self.duration;
        let all: Vec<usize> = (0..self.count as usize).collect();
        asker
            .until(deadline, &all, None, |book, place| {
                book.owners[place].is_none()
            })
            .await?;
        tell(&Survey::Answered(asker.book.owners()))?;

        let mut line = String::new();
        std::io::stdin().read_line(&mut line)?;
        let lost = parse_mac(line.trim()).context("read whom to watch")?;
        let had: Vec<usize> = all
            .into_iter()
            .filter(|place| asker.book.owners[*place] == Some(lost))
            .collect();
        let deadline = Instant::now() + self.duration;
        asker
            .until(deadline, &had, Some(lost), |book, place| {
                book.answered[place].is_none() || book.announced[place].is_none()
            })
            .await?;
        tell(&Survey::Moved(asker.book.moved(&had)))
    }
}

fn tell(survey: &Survey) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, survey)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

struct Asker {
    wire: Wire,
    socket: herald_net::PacketSocket,
    inbox: Inbox,
    book: Book,
}

impl Asker {
    /// Asks for those of these addresses that nobody (or nobody but the lost host)
    /// has answered for, until none is open or it is too late.
    async fn until(
        &mut self,
        deadline: Instant,
        places: &[usize],
        lost: Option<Mac>,
        open: impl Fn(&Book, usize) -> bool,
    ) -> Result<()> {
        let mut next = 0;
        while Instant::now() < deadline {
            let mut frames = Vec::with_capacity(BATCH);
            // Once round at the most.
            for _ in 0..places.len() {
                let place = places[next % places.len()];
                next += 1;
                let unanswered = match lost {
                    None => self.book.owners[place].is_none(),
                    Some(_) => self.book.answered[place].is_none(),
                };
                if unanswered {
                    let offset = u32::try_from(place).unwrap_or(u32::MAX);
                    let target = Ipv4Addr::from_bits(self.book.first + offset);
                    frames.push(arp_request(self.wire.mac, self.wire.address, target));
                }
                if frames.len() == BATCH {
                    break;
                }
            }
            if !frames.is_empty() {
                self.socket.send(&frames).await?;
            }
            self.listen(lost).await?;
            if !places.iter().any(|place| open(&self.book, *place)) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Notes what is said for one pause.
    async fn listen(&mut self, lost: Option<Mac>) -> Result<()> {
        let until = Instant::now() + PAUSE;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            let Ok(received) = timeout(left, self.socket.receive(&mut self.inbox)).await else {
                return Ok(());
            };
            received?;
            let now = epoch_ms();
            for frame in self.inbox.frames() {
                let Some((place, mac, answer)) = self.book.read(frame) else {
                    continue;
                };
                match lost {
                    None if answer => self.book.owners[place] = Some(mac),
                    Some(lost) if mac != lost => {
                        let times = if answer {
                            &mut self.book.answered
                        } else {
                            &mut self.book.announced
                        };
                        times[place].get_or_insert(now);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Milliseconds of the epoch, now.
pub fn epoch_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Ipv4Addr = Ipv4Addr::new(10, 20, 128, 0);

    fn frame(mac: [u8; 6], source: [u8; 4], target: [u8; 4], operation: u8) -> Vec<u8> {
        let mut frame = arp_request(mac, source.into(), target.into());
        frame[21] = operation;
        frame
    }

    #[test]
    fn answers_and_announcements_are_read_and_questions_are_not() {
        let book = Book::new(FIRST, 256);
        let vip = [10, 20, 128, 7];
        let mac = [2, 0, 0, 0, 0, 1];
        let answer = frame(mac, vip, [10, 20, 1, 1], 2);
        assert_eq!(book.read(&answer), Some((7, Mac(mac), true)));
        let announcement = frame(mac, vip, vip, 1);
        assert_eq!(book.read(&announcement), Some((7, Mac(mac), false)));
        assert_eq!(book.read(&frame(mac, [10, 20, 1, 1], vip, 1)), None);
        assert_eq!(book.read(&frame(mac, [10, 20, 129, 0], vip, 2)), None);
        assert_eq!(book.read(&answer[..30]), None);
    }

    #[test]
    fn what_moved_is_told_from_the_first_to_the_last() {
        let mut book = Book::new(FIRST, 4);
        book.answered = vec![Some(30), None, Some(10), Some(20)];
        book.announced = vec![Some(5), Some(6), None, None];
        let moved = book.moved(&[0, 2, 3]);
        assert_eq!(
            (moved.addresses, moved.answered, moved.announced),
            (3, 3, 1)
        );
        assert_eq!((moved.first_answer, moved.last_answer), (10, 30));
        assert_eq!((moved.first_announcement, moved.last_announcement), (5, 5));
    }
}
