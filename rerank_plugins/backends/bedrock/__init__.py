"""Amazon Bedrock's rerankers, through boto3."""

from rerank_plugins.backends.bedrock.backend import BedrockBackend

__all__ = ["BedrockBackend"]
