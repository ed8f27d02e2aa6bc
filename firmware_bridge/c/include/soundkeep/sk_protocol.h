/* Messages of the link. Written by firmware_bridge.generate from protocol.toml: change that file.
 * Numbers are little-endian. SK_<MESSAGE>_<FIELD> is the offset of a field in the payload; a tail begins at
 * SK_<MESSAGE>_FIXED. */
#ifndef SOUNDKEEP_SK_PROTOCOL_H
#define SOUNDKEEP_SK_PROTOCOL_H

#define SK_PROTOCOL_VERSION 1u
#define SK_MAX_PAYLOAD 1024u
#define SK_PACKET_HEAD 6u
#define SK_CRC_BYTES 4u
#define SK_WINDOW 4u

#define SK_FORMAT_PCM16 1u
#define SK_FORMAT_ADPCM 2u
#define SK_FORMAT_LOG_MEL 4u
#define SK_CAN_HEAD 1u
#define SK_CAN_TEACH 2u
#define SK_STATUS_DONE 0u
#define SK_STATUS_UNKNOWN 1u
#define SK_STATUS_OTHER_SESSION 2u
#define SK_STATUS_MALFORMED 3u
#define SK_STATUS_OTHER_EAR 4u
#define SK_STATUS_TOO_LARGE 5u
#define SK_STATUS_WRONG_CRC 6u
#define SK_STATUS_NO_BEGIN 7u
#define SK_STATUS_INCOMPLETE 8u
#define SK_STATUS_UNSUPPORTED 9u

#define SK_HOST_HELLO 1u
#define SK_HOST_HELLO_VERSION 0u /* uint8_t */
#define SK_HOST_HELLO_SESSION 1u /* uint32_t */
#define SK_HOST_HELLO_FIXED 5u

#define SK_DEVICE_HELLO 2u
#define SK_DEVICE_HELLO_VERSION 0u /* uint8_t */
#define SK_DEVICE_HELLO_SESSION 1u /* uint32_t */
#define SK_DEVICE_HELLO_SAMPLE_RATE 5u /* uint32_t */
#define SK_DEVICE_HELLO_FORMATS 9u /* uint8_t */
#define SK_DEVICE_HELLO_ABILITIES 10u /* uint8_t */
#define SK_DEVICE_HELLO_BLOCK 11u /* uint16_t */
#define SK_DEVICE_HELLO_HEAD_VERSION 13u /* uint32_t */
#define SK_DEVICE_HELLO_BANK_BYTES 17u /* uint32_t */
#define SK_DEVICE_HELLO_EAR 21u /* uint8_t[8] */
#define SK_DEVICE_HELLO_FRONT_END 29u /* uint8_t[8] */
#define SK_DEVICE_HELLO_FIXED 37u

#define SK_START 3u
#define SK_START_SESSION 0u /* uint32_t */
#define SK_START_FORMAT 4u /* uint8_t */
#define SK_START_FIXED 5u

#define SK_STOP 4u
#define SK_STOP_SESSION 0u /* uint32_t */
#define SK_STOP_FIXED 4u

#define SK_ACK 5u
#define SK_ACK_SESSION 0u /* uint32_t */
#define SK_ACK_SEQ 4u /* uint16_t */
#define SK_ACK_STATUS 6u /* uint8_t */
#define SK_ACK_FIXED 7u

#define SK_PCM 6u
#define SK_PCM_SAMPLE 0u /* uint32_t */
#define SK_PCM_FIXED 4u

#define SK_ADPCM 7u
#define SK_ADPCM_SAMPLE 0u /* uint32_t */
#define SK_ADPCM_FIXED 4u

#define SK_FEATURES 8u
#define SK_FEATURES_SAMPLE 0u /* uint32_t */
#define SK_FEATURES_N_BANDS 4u /* uint8_t */
#define SK_FEATURES_N_FRAMES 5u /* uint8_t */
#define SK_FEATURES_FIXED 6u

#define SK_TIME_QUERY 9u
#define SK_TIME_QUERY_NUMBER 0u /* uint32_t */
#define SK_TIME_QUERY_FIXED 4u

#define SK_TIME_ANSWER 10u
#define SK_TIME_ANSWER_NUMBER 0u /* uint32_t */
#define SK_TIME_ANSWER_SAMPLE 4u /* uint32_t */
#define SK_TIME_ANSWER_FIXED 8u

#define SK_STATUS_QUERY 11u
#define SK_STATUS_QUERY_FIXED 0u

#define SK_STATUS 12u
#define SK_STATUS_N_GOOD 0u /* uint32_t */
#define SK_STATUS_N_CRC 4u /* uint32_t */
#define SK_STATUS_N_MALFORMED 8u /* uint32_t */
#define SK_STATUS_N_OVERRUNS 12u /* uint32_t */
#define SK_STATUS_N_DROPPED 16u /* uint32_t */
#define SK_STATUS_N_UNKNOWN 20u /* uint32_t */
#define SK_STATUS_N_COPIES 24u /* uint32_t */
#define SK_STATUS_N_REFUSED 28u /* uint32_t */
#define SK_STATUS_N_UNSENT 32u /* uint32_t */
#define SK_STATUS_N_WINDOWS 36u /* uint32_t */
#define SK_STATUS_N_PASSED_OVER 40u /* uint32_t */
#define SK_STATUS_STACK_FREE 44u /* uint32_t */
#define SK_STATUS_UPTIME_MS 48u /* uint32_t */
#define SK_STATUS_FIXED 52u

#define SK_HOST_LABEL 13u
#define SK_HOST_LABEL_SESSION 0u /* uint32_t */
#define SK_HOST_LABEL_SCORE 4u /* float */
#define SK_HOST_LABEL_PHASE 8u /* uint8_t */
#define SK_HOST_LABEL_FIXED 9u

#define SK_DEVICE_LABEL 14u
#define SK_DEVICE_LABEL_SAMPLE 0u /* uint32_t */
#define SK_DEVICE_LABEL_HEAD_VERSION 4u /* uint32_t */
#define SK_DEVICE_LABEL_INDEX 8u /* int16_t */
#define SK_DEVICE_LABEL_SCORE 10u /* float */
#define SK_DEVICE_LABEL_FIXED 14u

#define SK_PROBE 15u
#define SK_PROBE_FIXED 0u

#define SK_PROBE_ANSWER 16u
#define SK_PROBE_ANSWER_FIXED 0u

#define SK_HEAD_BEGIN 17u
#define SK_HEAD_BEGIN_SESSION 0u /* uint32_t */
#define SK_HEAD_BEGIN_VERSION 4u /* uint32_t */
#define SK_HEAD_BEGIN_DIM 8u /* uint16_t */
#define SK_HEAD_BEGIN_N_CLASSES 10u /* uint8_t */
#define SK_HEAD_BEGIN_N_RIVALS 11u /* uint8_t */
#define SK_HEAD_BEGIN_N_BYTES 12u /* uint32_t */
#define SK_HEAD_BEGIN_CRC 16u /* uint32_t */
#define SK_HEAD_BEGIN_EAR 20u /* uint8_t[8] */
#define SK_HEAD_BEGIN_FIXED 28u

#define SK_HEAD_CHUNK 18u
#define SK_HEAD_CHUNK_SESSION 0u /* uint32_t */
#define SK_HEAD_CHUNK_VERSION 4u /* uint32_t */
#define SK_HEAD_CHUNK_OFFSET 8u /* uint32_t */
#define SK_HEAD_CHUNK_FIXED 12u

#define SK_HEAD_COMMIT 19u
#define SK_HEAD_COMMIT_SESSION 0u /* uint32_t */
#define SK_HEAD_COMMIT_VERSION 4u /* uint32_t */
#define SK_HEAD_COMMIT_FIXED 8u

#define SK_TEACH 20u
#define SK_TEACH_SESSION 0u /* uint32_t */
#define SK_TEACH_INDEX 4u /* uint8_t */
#define SK_TEACH_FIXED 5u

#define SK_EXAMPLE 21u
#define SK_EXAMPLE_SAMPLE 0u /* uint32_t */
#define SK_EXAMPLE_HEAD_VERSION 4u /* uint32_t */
#define SK_EXAMPLE_INDEX 8u /* uint8_t */
#define SK_EXAMPLE_N_NAME 9u /* uint8_t */
#define SK_EXAMPLE_FIXED 10u

#define SK_LOG 22u
#define SK_LOG_FIXED 0u

#define SK_SCORES 23u
#define SK_SCORES_SAMPLE 0u /* uint32_t */
#define SK_SCORES_HEAD_VERSION 4u /* uint32_t */
#define SK_SCORES_FIXED 8u

#define SK_HEAD_QUERY 24u
#define SK_HEAD_QUERY_FIXED 0u

#define SK_HEAD_STATE 25u
#define SK_HEAD_STATE_VERSION 0u /* uint32_t */
#define SK_HEAD_STATE_N_CLASSES 4u /* uint8_t */
#define SK_HEAD_STATE_N_RIVALS 5u /* uint8_t */
#define SK_HEAD_STATE_STATE 6u /* uint8_t */
#define SK_HEAD_STATE_NEXT_VERSION 7u /* uint32_t */
#define SK_HEAD_STATE_N_FLIPS 11u /* uint32_t */
#define SK_HEAD_STATE_FIXED 15u

#endif
