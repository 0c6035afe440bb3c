//! Reads what tcpdump writes.
//!
//! ```text
//!   file header, 24 octets: magic, version, zone, accuracy, length limit, link type
//!   record header, 16 octets: seconds, micro- or nanoseconds, octets kept, octets on the wire
//! ```
//! (draft-ietf-opsawg-pcap, sections 4 and 5.)

use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;

/// Link type of Ethernet (`LINKTYPE_ETHERNET`).
const ETHERNET: u32 = 1;
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;

/// A file that is no capture of Ethernet frames.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidCapture {
    /// The first octets are none of the four magics.
    #[error("not a pcap file: it begins with {0:#010x}")]
    Magic(u32),
    /// Captured on something else than Ethernet, such as the interface `any`.
    #[error("link type {0} is not Ethernet: capture on one interface, not on \"any\"")]
    LinkType(u32),
}

/// One frame as it was captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// When.
    pub at: Timestamp,
    /// The octets that were kept, from the Ethernet header on.
    pub octets: &'a [u8],
}

/// The frames of a capture. While tcpdump still writes, the file may end in
/// the midst of a record: the whole ones are given. An empty file is an empty
/// capture.
pub fn records(file: &[u8]) -> Result<Vec<Record<'_>>, InvalidCapture> {
    let Some((header, mut rest)) = file.split_at_checked(FILE_HEADER) else {
        return Ok(Vec::new());
    };
    let magic = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let (word, nanoseconds): (fn([u8; 4]) -> u32, u32) = match magic {
        0xa1b2_c3d4 => (u32::from_le_bytes, 1_000),
        0xa1b2_3c4d => (u32::from_le_bytes, 1),
        0xd4c3_b2a1 => (u32::from_be_bytes, 1_000),
        0x4d3c_b2a1 => (u32::from_be_bytes, 1),
        other => return Err(InvalidCapture::Magic(other)),
    };
    let field = |octets: &[u8], at: usize| {
        word([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
    };
    // The upper bits say how long frame check sequences are.
    let link_type = field(header, 20) & 0xffff;
    if link_type != ETHERNET {
        return Err(InvalidCapture::LinkType(link_type));
    }
    let mut records = Vec::new();
    while let Some((header, body)) = rest.split_at_checked(RECORD_HEADER) {
        let kept = usize::try_from(field(header, 8)).unwrap_or(usize::MAX);
        let Some((octets, next)) = body.split_at_checked(kept) else {
            break;
        };
        let since_epoch = Duration::from_secs(field(header, 0).into())
            + Duration::from_nanos(u64::from(field(header, 4)) * u64::from(nanoseconds));
        records.push(Record {
            at: Timestamp::UNIX_EPOCH + since_epoch,
            octets,
        });
        rest = next;
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of little-endian microseconds, with these frames.
    fn file(link_type: u32, frames: &[&[u8]]) -> Vec<u8> {
        let mut file = Vec::new();
        for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 0x4_0000, link_type] {
            file.extend_from_slice(&u32::to_le_bytes(word));
        }
        for (second, frame) in (1_u32..).zip(frames) {
            let length = u32::try_from(frame.len()).unwrap();
            for word in [second, 500_000, length, length] {
                file.extend_from_slice(&word.to_le_bytes());
            }
            file.extend_from_slice(frame);
        }
        file
    }

    #[test]
    fn frames_come_with_their_time() {
        let file = file(1, &[b"one", b"three"]);
        let records = records(&file).unwrap();
        assert_eq!(records.len(), 2);
        assert_eq!(records[0].octets, b"one");
        assert_eq!(records[0].at.as_millisecond(), 1_500);
        assert_eq!(records[1].at.as_millisecond(), 2_500);
    }

    #[test]
    fn a_file_that_is_still_being_written_gives_its_whole_records() {
        let whole = file(1, &[b"one", b"three"]);
        for length in 0..whole.len() {
            let expected = match length {
                0..43 => 0,
                _ => 1,
            };
            assert_eq!(
                records(&whole[..length]).unwrap().len(),
                expected,
                "{length}"
            );
        }
    }

    #[test]
    fn both_byte_orders_and_resolutions_are_read() {
        let mut big = Vec::new();
        for word in [
            0xa1b2_3c4d_u32,
            0x0002_0004,
            0,
            0,
            0x4_0000,
            1,
            7,
            2_000_000,
            1,
            1,
        ] {
            big.extend_from_slice(&word.to_be_bytes());
        }
        big.push(9);
        let records = records(&big).unwrap();
        assert_eq!(records[0].at.as_millisecond(), 7_002);
    }

    #[test]
    fn what_is_no_ethernet_capture_is_refused() {
        assert_eq!(records(&[0; 24]), Err(InvalidCapture::Magic(0)));
        assert_eq!(records(&file(113, &[])), Err(InvalidCapture::LinkType(113)));
    }
}
