use aws_smithy_types::byte_stream::ByteStream;
use plimsoll::ByteSize;
use plimsoll::stream::LineReader;

/// Returns the number of lines in the body of an object, and the length of the longest line.
pub async fn count(body: ByteStream) -> Result<(u64, usize), Box<dyn std::error::Error>> {
    let mut lines = LineReader::builder(ByteSize::kib(64)).build_async(body.into_async_read())?;
    let (mut number, mut longest) = (0, 0);
    while let Some(line) = lines.next_record().await? {
        number += 1;
        longest = longest.max(line.len());
    }
    Ok((number, longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn count_body_is_read_to_its_end() {
        let body = "a line of 20 letters\n".repeat(100_000) + "and the last, without an end";
        assert_eq!(count(ByteStream::from(body.into_bytes())).await.unwrap(), (100_001, 28));
        assert_eq!(count(ByteStream::from_static(b"")).await.unwrap(), (0, 0));
    }
}
