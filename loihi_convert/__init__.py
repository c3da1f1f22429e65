"""Convert a trained CNN to a spiking network for Loihi 2 and Lava.

Each stage takes one value and returns the next; nothing is edited in place::

    model, trained = checkpoint.load_model(Path("model.pt"))           nn.Module
    relu = convert.convert(model, trained.input_shape)                 ReluNetwork       batch norm folded, ReLU
    spiking = balance.balance(relu, images, timesteps=64)              SpikingNetwork    thresholds per channel
    quantized = quantize.quantize(spiking, images)                     QuantizedNetwork  Loihi's integers
    netx.write(quantized, Path("model.net"))                           a lava-dl netx HDF5 file
    result = open_backend("sim").run(Path("model.net"), images, 64)    RunResult         potentials at every step
    evaluate.evaluate(result, quantized, labels=labels)                accuracy against latency

`balance` takes a method by name and is ngu-lee without one. `pipeline` chooses a method and does all of it in two
calls, ``export`` and ``run``; its ``diagnose`` says what was lost where, ``check`` what is in the way of a chip. `cli`
is the same for the shell. Where things are:

==============  ===============================================================================================
``data``        images: the benchmark sets, a folder, an ``.npz``
``cnn``         the source CNN: architectures, training, checkpoints
``conversion``  CNN -> spiking network -> integers: convert, balance, quantize
``simulation``  what simulates both networks, the CNN, and what lies between them
``backends``    what runs an exported file: exact integers of ours, Lava
``inspection``  what is in a netx file, whoever wrote it, and what differs between two
``checks``      what is in the way of Lava or a chip: rules on files, integers, channels, memory
``results``     from a run to tables, pictures and run folders; what a conversion loses; what a chip might take
``report``      run folders -> one page, HTML and Markdown
``golden``      a tiny network and what its layers must do, for ``run --golden``
==============  ===============================================================================================

Beside them: the networks (`synapse`; `network`, `quantized`; `cuba` of foreign files), every Loihi number (`loihi`),
the file format (`netx`), and soft reset from processes that a Loihi 2 chip has (`circuit`).
"""
