"""The winner as an artefact."""
