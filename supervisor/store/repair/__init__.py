"""What is examined, validated and salvaged of a store that may be damaged."""
