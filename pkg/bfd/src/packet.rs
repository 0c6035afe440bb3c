//! The BFD Control packet (RFC 5880 §4.1).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-----+---------+---+-+-+-+-+-+-+---------------+---------------+
//! |Vers |  Diag   |Sta|P|F|C|A|D|M|  Detect Mult  |    Length     |
//! +-----+---------+---+-+-+-+-+-+-+---------------+---------------+
//! |                       My Discriminator                        |
//! +---------------------------------------------------------------+
//! |                      Your Discriminator                       |
//! +---------------------------------------------------------------+
//! |                 Desired Min TX Interval (µs)                  |
//! +---------------------------------------------------------------+
//! |                Required Min RX Interval (µs)                  |
//! +---------------------------------------------------------------+
//! |              Required Min Echo RX Interval (µs)               |
//! +---------------------------------------------------------------+
//! ```
//!
//! [`ControlPacket::parse`] reads what is there; [`ControlPacket::validate`]
//! applies the rules of §6.8.6 that need no session.

use std::fmt;

use thiserror::Error;

const VERSION: u8 = 1;
const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const INDEPENDENT: u8 = 0x08;
const AUTHENTICATED: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// `Sta`: the state of a session, ours or as its peer tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// 0: held down by its administrator. Says nothing about the path.
    AdminDown,
    /// 1: no packets from the peer, or it has just gone down.
    #[default]
    Down,
    /// 2: packets come, but the peer has not told yet that it gets ours.
    Init,
    /// 3: packets go both ways.
    Up,
}

impl State {
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::AdminDown => 0,
            Self::Down => 1,
            Self::Init => 2,
            Self::Up => 3,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AdminDown => "AdminDown",
            Self::Down => "Down",
            Self::Init => "Init",
            Self::Up => "Up",
        })
    }
}

/// `Diag`: why a session last changed its state, 0..=31. Those above 8 have no
/// name here but are legal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Diagnostic(u8);

impl Diagnostic {
    /// 0.
    pub const NONE: Self = Self(0);
    /// 1: nothing came for a whole Detection Time.
    pub const DETECTION_TIME_EXPIRED: Self = Self(1);
    /// 3: the peer said that its side is down.
    pub const NEIGHBOR_SIGNALED_DOWN: Self = Self(3);
    /// 7: its administrator took it down.
    pub const ADMINISTRATIVELY_DOWN: Self = Self(7);

    /// The code as it is sent.
    pub const fn code(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "no diagnostic",
            1 => "control detection time expired",
            2 => "echo function failed",
            3 => "neighbor signaled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            code => return write!(f, "diagnostic {code}"),
        })
    }
}

/// Why bytes are not a Control packet that may be acted on (RFC 5880 §6.8.6).
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// Fewer bytes than a Control packet has, or than its Length says.
    #[error("shorter than a BFD Control packet or than its own Length")]
    Short,
    /// Another version than 1.
    #[error("BFD version {0}, not 1")]
    Version(u8),
    /// Length too small.
    #[error("the Length {0} is too small")]
    Length(u8),
    /// Detect Mult 0.
    #[error("the Detect Mult is 0")]
    DetectMult,
    /// M set, which is reserved.
    #[error("the Multipoint bit is set")]
    Multipoint,
    /// My Discriminator 0.
    #[error("My Discriminator is 0")]
    MyDiscriminator,
    /// Your Discriminator 0 in a state that must know it.
    #[error("Your Discriminator is 0 in state {0}")]
    YourDiscriminator(State),
    /// P and F both set (§6.5).
    #[error("both Poll and Final are set")]
    PollAndFinal,
    /// A set, and no session here uses authentication.
    #[error("the peer authenticates its packets; take BFD authentication off at the peer")]
    Authenticated,
}

/// A BFD Control packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "they are bits on the wire")]
pub struct ControlPacket {
    /// `Diag`.
    pub diagnostic: Diagnostic,
    /// `Sta`.
    pub state: State,
    /// `P`: the sender wants an answer with F.
    pub poll: bool,
    /// `F`: the answer to P.
    pub r#final: bool,
    /// `C`: the sender's BFD does not end when its control plane does.
    pub control_plane_independent: bool,
    /// `A`: an authentication section follows.
    pub authenticated: bool,
    /// `D`: the sender wants no periodic packets while both sides are up.
    pub demand: bool,
    /// `M`: reserved, 0.
    pub multipoint: bool,
    /// `Detect Mult`: 1..=255.
    pub detect_mult: u8,
    /// `My Discriminator`: not 0.
    pub my_discriminator: u32,
    /// `Your Discriminator`: 0 while the sender does not know it.
    pub your_discriminator: u32,
    /// `Desired Min TX Interval`, microseconds, without jitter.
    pub desired_min_tx: u32,
    /// `Required Min RX Interval`, microseconds; 0: send nothing periodic.
    pub required_min_rx: u32,
    /// `Required Min Echo RX Interval`, microseconds; 0: no echo.
    pub required_min_echo_rx: u32,
}

impl ControlPacket {
    /// Bytes of a packet without an authentication section.
    pub const LENGTH: usize = 24;

    /// Reads the payload of a UDP datagram. Bytes behind the Length are
    /// ignored, and so is what an authentication section says.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let fixed: &[u8; Self::LENGTH] = bytes.first_chunk().ok_or(Malformed::Short)?;
        let [first, flags, detect_mult, length, ..] = *fixed;
        if first >> 5 != VERSION {
            return Err(Malformed::Version(first >> 5));
        }
        let authenticated = flags & AUTHENTICATED != 0;
        let least = if authenticated { 26 } else { 24 };
        if length < least {
            return Err(Malformed::Length(length));
        }
        if usize::from(length) > bytes.len() {
            return Err(Malformed::Short);
        }
        let word = |at: usize| {
            u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]])
        };
        Ok(Self {
            diagnostic: Diagnostic(first & 0x1f),
            state: State::from_bits(flags >> 6),
            poll: flags & POLL != 0,
            r#final: flags & FINAL != 0,
            control_plane_independent: flags & INDEPENDENT != 0,
            authenticated,
            demand: flags & DEMAND != 0,
            multipoint: flags & MULTIPOINT != 0,
            detect_mult,
            my_discriminator: word(4),
            your_discriminator: word(8),
            desired_min_tx: word(12),
            required_min_rx: word(16),
            required_min_echo_rx: word(20),
        })
    }

    /// The checks of RFC 5880 §6.8.6 that need no session.
    pub fn validate(&self) -> Result<(), Malformed> {
        let early = matches!(self.state, State::Down | State::AdminDown);
        if self.detect_mult == 0 {
            Err(Malformed::DetectMult)
        } else if self.multipoint {
            Err(Malformed::Multipoint)
        } else if self.my_discriminator == 0 {
            Err(Malformed::MyDiscriminator)
        } else if self.your_discriminator == 0 && !early {
            Err(Malformed::YourDiscriminator(self.state))
        } else if self.poll && self.r#final {
            Err(Malformed::PollAndFinal)
        } else if self.authenticated {
            Err(Malformed::Authenticated)
        } else {
            Ok(())
        }
    }

    /// The packet to send. One with [`authenticated`](Self::authenticated) set
    /// would want a section behind it, which is not written.
    pub fn to_bytes(&self) -> [u8; Self::LENGTH] {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let mut bytes = [0; Self::LENGTH];
        bytes[0] = VERSION << 5 | self.diagnostic.0 & 0x1f;
        bytes[1] = self.state.bits() << 6
            | flag(self.poll, POLL)
            | flag(self.r#final, FINAL)
            | flag(self.control_plane_independent, INDEPENDENT)
            | flag(self.authenticated, AUTHENTICATED)
            | flag(self.demand, DEMAND)
            | flag(self.multipoint, MULTIPOINT);
        bytes[2] = self.detect_mult;
        bytes[3] = 24;
        for (at, word) in [
            (4, self.my_discriminator),
            (8, self.your_discriminator),
            (12, self.desired_min_tx),
            (16, self.required_min_rx),
            (20, self.required_min_echo_rx),
        ] {
            bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A packet that passes.
    fn valid() -> ControlPacket {
        ControlPacket {
            state: State::Up,
            detect_mult: 3,
            my_discriminator: 1,
            your_discriminator: 2,
            ..ControlPacket::default()
        }
    }

    #[test]
    fn every_field_stands_where_the_rfc_puts_it() {
        let packet = ControlPacket {
            diagnostic: Diagnostic::NEIGHBOR_SIGNALED_DOWN,
            state: State::Init,
            poll: true,
            control_plane_independent: true,
            demand: true,
            detect_mult: 5,
            my_discriminator: 0x0102_0304,
            your_discriminator: 0x0506_0708,
            desired_min_tx: 1_000_000,
            required_min_rx: 50_000,
            required_min_echo_rx: 7,
            ..ControlPacket::default()
        };
        #[rustfmt::skip]
        let expected = [
            0x23, 0b1010_1010, 5, 24,
            1, 2, 3, 4,
            5, 6, 7, 8,
            0x00, 0x0f, 0x42, 0x40,
            0x00, 0x00, 0xc3, 0x50,
            0, 0, 0, 7,
        ];
        assert_eq!(packet.to_bytes(), expected);
        assert_eq!(ControlPacket::parse(&expected), Ok(packet));
    }

    #[test]
    fn what_must_be_discarded_is_named() {
        let good = valid().to_bytes();
        let mut version = good;
        version[0] = 0;
        assert_eq!(ControlPacket::parse(&version), Err(Malformed::Version(0)));
        let mut short = good;
        short[3] = 23;
        assert_eq!(ControlPacket::parse(&short), Err(Malformed::Length(23)));
        let mut long = good;
        long[3] = 25;
        assert_eq!(ControlPacket::parse(&long), Err(Malformed::Short));
        let mut authenticated = good;
        authenticated[1] |= AUTHENTICATED;
        assert_eq!(
            ControlPacket::parse(&authenticated),
            Err(Malformed::Length(24))
        );
        assert_eq!(ControlPacket::parse(&good[..23]), Err(Malformed::Short));

        let refused = |change: fn(&mut ControlPacket)| {
            let mut packet = valid();
            change(&mut packet);
            packet.validate().unwrap_err()
        };
        assert_eq!(valid().validate(), Ok(()));
        assert_eq!(refused(|p| p.detect_mult = 0), Malformed::DetectMult);
        assert_eq!(refused(|p| p.multipoint = true), Malformed::Multipoint);
        assert_eq!(
            refused(|p| p.my_discriminator = 0),
            Malformed::MyDiscriminator
        );
        assert_eq!(
            refused(|p| p.authenticated = true),
            Malformed::Authenticated
        );
        assert_eq!(
            refused(|p| p.your_discriminator = 0),
            Malformed::YourDiscriminator(State::Up)
        );
        assert_eq!(
            refused(|p| (p.poll, p.r#final) = (true, true)),
            Malformed::PollAndFinal
        );
        for state in [State::Down, State::AdminDown] {
            let packet = ControlPacket {
                state,
                your_discriminator: 0,
                ..valid()
            };
            assert_eq!(packet.validate(), Ok(()));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(packet) = ControlPacket::parse(&bytes) {
                let _ = packet.validate();
            }
        }

        #[test]
        fn what_is_read_is_written_back(mut bytes in any::<[u8; 24]>()) {
            bytes[0] = bytes[0] & 0x1f | 0x20;
            bytes[1] &= !AUTHENTICATED;
            bytes[3] = 24;
            let packet = ControlPacket::parse(&bytes).unwrap();
            prop_assert_eq!(packet.to_bytes(), bytes);
        }
    }
}
